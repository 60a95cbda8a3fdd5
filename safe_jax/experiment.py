"""One run, top to bottom: data, features, tune, select, evaluate, report."""

import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from safe_jax import batches, clip, examples, features, knobs, parallel, selection, train, transfer
from safe_jax.clip import weights
from safe_jax.data import datasets, few_shot, sources
from safe_jax.errors import InputError
from safe_jax.methods import safe, zero_shot
from safe_jax.results import Results

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelledBank:
    """A bank, and the records that it was made of in its order."""

    bank: features.Bank
    records: list[sources.Record]

    def find(self, records) -> tuple[np.ndarray, np.ndarray]:
        """Where `records` lie in the bank, and their labels."""
        position = {record: i for i, record in enumerate(self.records)}
        image_n = np.array([position[record] for record in records])
        return image_n, np.array([record.label for record in records])


@dataclasses.dataclass(frozen=True)
class Context:
    """What every run of an experiment shares."""

    config: FrozenConfigDict
    data: datasets.Dataset
    transfers: list[datasets.Transfer]
    banks: dict[str, LabelledBank]
    model: clip.CLIP
    text_kd: jax.Array
    mesh: jax.sharding.Mesh
    workdir: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images of one run: what it trains on, chooses with, and is evaluated on."""

    shots: int
    seed: int
    train: list[sources.Record]
    val: list[sources.Record]
    eval: list[sources.Record]


def run(config: ConfigDict, workdir: pathlib.Path) -> list[dict]:
    """Runs what `config` describes and returns its rows of `workdir/results.jsonl`.

    Rows that are there already, of the same knobs, data and weights, are kept: a run that was
    killed goes on where it was. Raises `InputError` for what a user can mend.
    """
    workdir = pathlib.Path(workdir).expanduser().resolve()  # Orbax takes no relative paths
    knobs.validate(config)
    config = knobs.resolve(config)
    data = datasets.load(config)
    transfers = transfer.load(config)
    subsets = [_draw(config, data, shots, seed) for shots in config.shots for seed in config.seeds]
    directory = pathlib.Path(clip.locate(config.weights, config.cache_dir))
    digest = weights.read_metadata(directory)[1]["digest"]
    specs = _bank_specs(config, data, subsets, transfers, digest)
    config_hash = knobs.experiment_hash(config, data, digest)
    with Results(
        workdir / "results.jsonl",
        dataset=data.name,
        config_hash=config_hash,
        weights=f"{directory.name}@{digest[:12]}",
        split=config.eval_split,
    ) as results:
        knobs.note(workdir / "configs" / f"{config_hash}.json", config)
        context = _prepare(config, data, transfers, specs, directory, workdir)
        keys = _keys(subsets, specs)
        for subset, key in zip(subsets, keys, strict=True):
            folder = workdir / "checkpoints" / "-".join(map(str, (config_hash, *key)))
            if not results.has("zero_shot", *key):
                transfer.add_rows(results, "zero_shot", key, _timed(_zero_shot, context, subset))
            if not results.has("safe", *key):
                transfer.add_rows(results, "safe", key, _timed(_safe, context, subset, folder))
            shutil.rmtree(folder, ignore_errors=True)
        return [row for key in keys for row in results.rows_of(*key)]


def _draw(config, data, shots, seed) -> Subset:
    train_records, val = few_shot.subset(data.splits.train, data.splits.val, shots, seed)
    if config.selection == "full_val":
        val = data.splits.val
    elif config.selection == "fixed":
        val = []
    if not val and config.selection != "fixed":
        raise InputError(
            f"{data.name} has no validation images, but config.selection={config.selection}: "
            "set it to fixed, and config.alpha"
        )
    if config.eval_split == "test":
        return Subset(shots, seed, train_records, val, data.splits.test)
    held_out = sorted(set(data.splits.val) - set(val))
    if not held_out:
        raise InputError(
            f"config.eval_split=val: the {len(data.splits.val)} validation images of {data.name} "
            f"all choose alpha with {shots} shots; none is left to evaluate on"
        )
    return Subset(shots, seed, train_records, val, held_out)


@dataclasses.dataclass(frozen=True)
class LabelledSpec:
    """What a bank is to hold, with the records it is made of."""

    spec: features.BankSpec
    records: list[sources.Record]


def _bank_specs(config, data, subsets, transfers, digest) -> dict[str, LabelledSpec]:
    """A bank for each use, shared by all subsets: the trunk sees every image once."""
    specs = {}
    for use in ("train", "val", "eval"):
        records = sorted({record for subset in subsets for record in getattr(subset, use)})
        views = config.views if use == "train" else 1
        names = [record.path for record in records]
        spec = features.bank_spec(config, digest, data.image_dir, names, views)
        specs[use] = LabelledSpec(spec, records)
    for each in transfers:
        names = [record.path for record in each.records]
        spec = features.bank_spec(config, digest, each.image_dir, names, views=1)
        specs[each.name] = LabelledSpec(spec, each.records)
    return specs


def _keys(subsets, specs) -> list[tuple[int, int, str]]:
    """Shots, seed and what tells the images of a subset, as they are on the disk, from others."""
    stamps = {
        use: {name: (name, *stamp) for name, *stamp in labelled.spec.contents["images"]}
        for use, labelled in specs.items()
    }
    keys = []
    for subset in subsets:
        used = [  # a transfer's images are the same ones for every subset
            [stamps[use][r.path] for r in getattr(subset, use, labelled.records)]
            for use, labelled in specs.items()
        ]
        sha = hashlib.sha256(json.dumps(used).encode())
        keys.append((subset.shots, subset.seed, sha.hexdigest()[:12]))
    return keys


def _prepare(config, data, transfers, specs, directory, workdir) -> Context:
    """Checks the files that will be read, loads the model, and obtains the banks."""
    mesh = parallel.make_mesh()
    log.info(
        "%s: %d classes; %d train, %d val and %d test images; weights %s; %d x %s",
        data.name, len(data.classnames), *map(len, data.splits), directory,
        mesh.size, mesh.devices.flat[0].device_kind,
    )  # fmt: skip
    online = config.features == "online"
    banked = {
        use: labelled
        for use, labelled in specs.items()
        if labelled.records and not (online and use == "train")
    }
    unread = {
        path
        for use, labelled in specs.items()
        if use not in banked or not labelled.spec.done
        for path in labelled.spec.paths
    }
    sources.check_files(sorted(unread, key=str), config.workers)
    model = clip.load(directory, jnp.dtype(config.dtype), parallel.replicated(mesh))
    text_kd = zero_shot.text_classifier(model, data.prompts)
    features.check_space([labelled.spec for labelled in banked.values()], model.config)
    banks = {
        use: LabelledBank(
            features.load_or_extract(labelled.spec, model, mesh, config), labelled.records
        )
        for use, labelled in banked.items()
    }
    return Context(config, data, transfers, banks, model, text_kd, mesh, workdir)


def _timed(function, *args):
    began = time.time()
    return function(*args) | {"seconds": time.time() - began}


def _zero_shot(context, subset):
    image_n, label_n = context.banks["eval"].find(subset.eval)
    pooled_nd = context.banks["eval"].bank.pooled[image_n]
    accuracy = zero_shot.accuracy(pooled_nd, context.text_kd, label_n)
    return {
        "accuracy": accuracy,
        "selection": "none",
        "alpha": None,
        "transfer": transfer.zero_shot_accuracies(context),
    }


def _safe(context, subset, folder):
    """SAFE on one subset: tuned, alpha chosen on its validation images, evaluated."""
    config, mesh = context.config, context.mesh
    method, params, classifier = safe.Safe.init(context.model, context.text_kd, config)
    plan = batches.plan(
        len(subset.train), config.views, config.batch_size, config.epochs, subset.seed, mesh.size
    )
    state, tuning = train.init(method, params, classifier, config, plan, mesh)
    state, losses = train.fit(
        state, tuning, plan.steps, lambda step: _train_batches(context, subset, plan, step), folder
    )

    grid = method.grid(config)
    curves = {
        use: train.evaluate(state.params, tuning, grid, _eval_batches(context, use, records))
        for use, records in (("val", subset.val), ("eval", subset.eval))
        if records
    }
    for accuracy_and_loss in curves.values():
        if not np.isfinite(accuracy_and_loss[1]).all():  # the last step's update is in no loss
            raise InputError("the tuned pool gives no finite logits: lower the learning rate")
    best = selection.best_index(*curves["val"]) if subset.val else 0
    return {
        "accuracy": curves["eval"][0][best],
        "selection": config.selection,
        "alpha": grid["alpha"][best],
        # For the plots of a report: nothing is chosen on "eval".
        "curve": grid | {use: accuracy for use, (accuracy, _) in curves.items()},
        "losses": losses.reshape(config.epochs, -1).mean(1),
        "transfer": transfer.tuned_accuracies(
            context, state.params, tuning, {"alpha": grid["alpha"][best]}, _eval_batches
        ),
        **_shown(context, subset, state, tuning, grid["alpha"][best]),
    }


def _shown(context, subset, state, tuning, alpha):
    """For the report: a few images with the answers, and where the pools look."""
    data, size = context.data, context.model.image_size
    params = train.join_params(state.params, tuning.frozen.params)
    pools = {
        "original": nnx.to_pure_dict(nnx.state(context.model.attnpool)),
        "tuned": params["attnpool"],
    }

    def maps(records):
        eval_batches = _eval_batches(context, "eval", records)
        return examples.attention(tuning.method.graphdef, pools, eval_batches)

    chosen = examples.draw(subset.eval)
    zero_shot_nk, blended_nk = examples.probabilities(
        params, tuning, np.array([0, alpha]), _eval_batches(context, "eval", chosen)
    )
    answers = {"zero_shot": zero_shot_nk, "blended": blended_nk}
    shown = {
        "examples": examples.describe(chosen, answers, maps(chosen), data, size, context.workdir)
    }
    if boxed := [record for record in subset.eval if record.path in data.boxes]:
        shown["attention_on_object"] = examples.on_object(boxed, maps(boxed), data, size)
    return shown


def _train_batches(context, subset, plan, first_step):
    if context.config.features == "online":
        return batches.online(
            context.model, context.data.image_dir, subset.train, plan, subset.seed,
            context.config, context.mesh, first_step,
        )  # fmt: skip
    labelled = context.banks["train"]
    return batches.from_bank(
        labelled.bank, *labelled.find(subset.train), plan, context.mesh, first_step
    )


def _eval_batches(context, use, records):
    labelled = context.banks[use]
    size = parallel.round_up(context.config.eval_batch_size, context.mesh)
    return batches.in_order(labelled.bank, *labelled.find(records), size, context.mesh)
