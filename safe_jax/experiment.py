"""One run, top to bottom: data, features, tune, select, evaluate, report."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from safe_jax import batches, clip, features, parallel, report, selection, train
from safe_jax.clip import weights
from safe_jax.data import datasets, few_shot, sources
from safe_jax.errors import InputError
from safe_jax.methods import safe, zero_shot

log = logging.getLogger(__name__)

# No number in a row depends on these, or they stand in the row itself.
_NOT_HASHED = (
    "data_root", "weights", "cache_dir", "workers", "trunk_batch_size", "eval_batch_size",
    "checkpoint_every", "shots", "seeds",
)  # fmt: skip

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "features": ("bank", "online"),
    "bank_dtype": ("float16", "float32"),
    "blend": safe.BLENDS,
    "selection": selection.SELECTIONS,
    "split": ("test", "val"),
}
_AT_LEAST_ONE = (
    "epochs", "batch_size", "views", "trunk_batch_size", "eval_batch_size", "checkpoint_every",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """The images of one use (train, val or test), their files and, once obtained, their bank."""

    records: list[sources.Record]
    request: features.Request
    bank: features.Bank | None = None

    def find(self, records) -> tuple[np.ndarray, np.ndarray]:
        """Where `records` lie in the bank, and their labels."""
        position = {record.path: i for i, record in enumerate(self.records)}
        image_n = np.array([position[record.path] for record in records])
        return image_n, np.array([record.label for record in records])


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every run of an experiment shares."""

    config: FrozenConfigDict
    data: datasets.Dataset
    parts: dict[str, Part]
    model: clip.CLIP
    text_kd: jax.Array
    mesh: jax.sharding.Mesh


def run(config: ConfigDict, workdir: pathlib.Path) -> list[dict]:
    """Runs what `config` describes and returns its rows of `workdir/results.jsonl`.

    Rows that are there already, of the same knobs, data and weights, are kept: a run that was
    killed goes on where it was. Raises `InputError` for what a user can mend.
    """
    config = _check(config)
    data = datasets.load(config)
    subsets = {
        (shots, seed): few_shot.subset(data.splits.train, data.splits.val, shots, seed)
        for shots in config.shots
        for seed in config.seeds
    }
    directory = pathlib.Path(clip.locate(config.weights))
    digest = weights.read_metadata(directory)[1]["digest"]
    experiment = _hash(config, data, digest)
    results = report.Results(
        workdir / "results.jsonl",
        dataset=data.name,
        config_hash=experiment,
        weights=f"{directory.name}@{digest[:12]}",
        split=config.split,
    )
    setting = _prepare(config, data, subsets, directory, digest)

    if not results.has("zero_shot", 0, 0):
        began = time.time()
        test = setting.parts["test"]
        accuracy = zero_shot.accuracy(test.bank.pooled, setting.text_kd, test.find(test.records)[1])
        results.add("zero_shot", 0, 0, accuracy, selection="none", seconds=time.time() - began)
    for (shots, seed), (train_records, val_records) in subsets.items():
        folder = workdir / "checkpoints" / f"{experiment}-{shots}-{seed}"
        if not results.has("safe", shots, seed):
            began = time.time()
            state, tuning, losses = _tune(setting, train_records, seed, folder)
            found = _select_and_test(setting, state.params, tuning, val_records)
            found["losses"] = losses.reshape(config.epochs, -1).mean(1)
            results.add("safe", shots, seed, **found, seconds=time.time() - began)
        shutil.rmtree(folder, ignore_errors=True)
    return results.rows


def _prepare(config, data, subsets, directory, digest) -> Setting:
    """Checks the files that will be read, loads the model, and obtains the banks."""
    mesh = parallel.make_mesh()
    log.info(
        "%s: %d classes; %d train, %d val and %d test images; weights %s; %d x %s",
        data.name, len(data.classnames), *map(len, data.splits), directory,
        mesh.size, mesh.devices.flat[0].device_kind,
    )  # fmt: skip
    parts = _parts(config, data, subsets, digest)
    wanted = [part.request for part in parts.values()]
    unread = {path for request in wanted if not request.done for path in request.paths}
    sources.check_files(sorted(unread), config.workers)
    model = clip.load(directory, jnp.dtype(config.dtype), parallel.replicated(mesh))
    text_kd = zero_shot.text_classifier(model, data.classnames, data.templates)
    parts = {
        use: dataclasses.replace(part, bank=features.obtain(part.request, model, mesh, config))
        for use, part in parts.items()
    }
    return Setting(config, data, parts, model, text_kd, mesh)


def _tune(setting, records, seed, folder):
    """SAFE on the training images of one subset."""
    config, model, mesh = setting.config, setting.model, setting.mesh
    plan = batches.plan(
        len(records), config.views, config.batch_size, config.epochs, seed, mesh.size
    )
    state, tuning = train.start(
        model.attnpool, setting.text_kd, model.logit_scale[...], config, plan, mesh
    )

    def batches_from(step):
        if config.features == "online":
            paths, label_n = setting.data.paths(records), np.array([r.label for r in records])
            return batches.online(model, paths, label_n, plan, seed, config, mesh, step)
        part = setting.parts["train"]
        return batches.from_bank(part.bank, *part.find(records), plan, mesh, step)

    state, losses = train.fit(state, tuning, plan.steps, batches_from, folder)
    return state, tuning, losses


def _select_and_test(setting, params, tuning, val_records):
    """Alpha from validation images, accuracy at it on the others: what stands in a row."""
    config, parts, mesh = setting.config, setting.parts, setting.mesh
    alphas = np.linspace(0, 1, config.alphas).round(6)

    def evaluate(part, records):
        size = parallel.round_up(config.eval_batch_size, mesh)
        in_order = batches.in_order(part.bank, *part.find(records), size, mesh)
        return train.evaluate(params, tuning, alphas, in_order)

    if config.selection == "fixed":
        alphas = np.array([config.alpha])
        chosen, val_accuracy = 0, None
    else:
        if config.selection == "full_val":
            val_records = setting.data.splits.val
        val_accuracy, val_loss = evaluate(parts["val"], val_records)
        chosen = selection.best(val_accuracy, val_loss)
    tested = parts["test"].records
    if config.split == "val":
        seen = set(val_records)
        tested = [record for record in tested if record not in seen]
    test_accuracy, _ = evaluate(parts["test"], tested)
    return {
        "accuracy": test_accuracy[chosen],
        "selection": config.selection,
        "alpha": alphas[chosen],
        # For the curves of a report; nothing is chosen on `test`.
        "curve": {"alpha": alphas, "val": val_accuracy, "test": test_accuracy},
    }


def _parts(config, data, subsets, digest):
    """Which images are needed for what: all subsets share a bank, so the trunk sees each once."""
    drawn_train = [record for train_records, _ in subsets.values() for record in train_records]
    drawn_val = [record for _, val_records in subsets.values() for record in val_records]
    wanted = {"test": (getattr(data.splits, config.split), 1)}
    if config.features == "bank":
        wanted["train"] = drawn_train, config.views
    if config.selection != "fixed":
        wanted["val"] = (data.splits.val if config.selection == "full_val" else drawn_val), 1
        if not wanted["val"][0]:
            raise InputError(
                f"{data.name} has no validation images, but config.selection="
                f"{config.selection}: set it to fixed, and config.alpha"
            )
    parts = {}
    for use, (records, views) in wanted.items():
        records = sorted(set(records))
        names = [record.path for record in records]
        parts[use] = Part(records, features.request(config, digest, data.images, names, views))
    return parts


def _check(config):
    """The config, what is left to us filled in. Raises `InputError` for a bad value."""
    config = ConfigDict(config)
    for knob, choices in _CHOICES.items():
        if config[knob] not in choices:
            raise InputError(f"config.{knob}={config[knob]!r}: one of {', '.join(choices)}")
    for knob in _AT_LEAST_ONE:
        if config[knob] < 1:
            raise InputError(f"config.{knob}={config[knob]}: at least 1 is expected")
    for knob in ("shots", "seeds"):
        if not config[knob] or not all(isinstance(x, int) for x in config[knob]):
            raise InputError(f"config.{knob}={config[knob]}: whole numbers are expected, as 1,2,4")
    if min(config.shots) < 1:
        raise InputError(f"config.shots={config.shots}: at least 1 image a class is expected")
    if (config.split, config.selection) == ("val", "full_val"):
        raise InputError(
            "config.split=val evaluates on validation images that chose no alpha, but with "
            "config.selection=full_val every validation image chose alpha: use few_shot_val"
        )
    if config.alphas < 2:
        raise InputError(f"config.alphas={config.alphas}: a grid has at least 0 and 1")
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.workers = config.workers or len(os.sched_getaffinity(0))
    return FrozenConfigDict(config)


def _hash(config, data, digest):
    """What tells rows of one experiment from those of another."""
    knobs = {k: v for k, v in config.to_dict().items() if k not in _NOT_HASHED}
    sha = hashlib.sha256(json.dumps([knobs, digest, data.classnames, data.templates]).encode())
    for part in data.splits:
        sha.update("\n".join(f"{record.path} {record.label}" for record in part).encode())
    return sha.hexdigest()[:12]
