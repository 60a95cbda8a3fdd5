"""One run, top to bottom: data, features, tune, select, evaluate, report."""

import collections
import dataclasses
import hashlib
import json
import logging

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from safe_jax import clip
from safe_jax.bank import store
from safe_jax.clip import weights
from safe_jax.data import datasets, few_shot
from safe_jax.data.records import Record, check_files
from safe_jax.experiment import compare, knobs, transfer
from safe_jax.experiment.results import Results
from safe_jax.experiment.trial import Context, LabelledBank, Subset, Trial
from safe_jax.methods import zero_shot
from safe_jax.runtime import devices, hosts, paths
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import fit

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir) -> list[dict]:
    """Runs what `config` describes and returns its rows of `workdir/results.jsonl`.

    Several data sets, as `config.dataset=a,b`, take turns. Rows that are there already, of the
    same knobs, data and weights, are kept: a run that was killed goes on where it was. Raises
    `InputError` for what a user can mend.
    """
    workdir = paths.absolute(paths.parse(workdir))  # Orbax takes no relative paths
    hosts.check_shared(workdir)
    names = datasets.names(config)
    if len(names) > 1 and (
        given := [k for k in ("image_dir", "split_file", "tfds", "prompts_file") if config[k]]
    ):
        raise InputError(f"config.{given[0]} is for one data set: name one in config.dataset")
    # All of them before the first: what cannot be run is told before anything is computed.
    described = [_describe(config, name) for name in names]
    # By default accelerators round the operands of float32 products, to 10 bits or to 7.
    with jax.default_matmul_precision("highest"):
        return [row for one in described for row in _run(*one, workdir)]


def _describe(config, name):
    """What is to be run on a data set: its config, its listing, its transfers and its subsets."""
    config = ConfigDict(config)
    config.dataset = name
    knobs.follow_protocol(config)
    knobs.validate(config)
    config = knobs.resolve(config)
    data = datasets.load(config)
    transfers = transfer.load(config)
    subsets = [_draw(config, data, shots, seed) for shots in config.shots for seed in config.seeds]
    _warn_of_few(data, max(config.shots))
    return config, data, transfers, subsets


def _warn_of_few(data, shots):
    """A class with fewer images than shots gives all that it has; the rows do not tell."""
    images = collections.Counter(record.label for record in data.splits.train)
    if few := [label for label, count in images.items() if count < shots]:
        log.warning(
            "%s: %d of %d classes have fewer than %d training images (%s has %d) and give all",
            data.name, len(few), len(data.classnames), shots, data.classnames[few[0]],
            images[few[0]],
        )  # fmt: skip


def _run(config, data, transfers, subsets, workdir):
    directory = paths.parse(clip.locate(config.weights, config.cache_dir))
    digest = weights.read_metadata(directory)[1]["digest"]
    specs = _bank_specs(config, data, subsets, transfers, digest)
    config_hash = knobs.experiment_hash(config, data, digest)
    with Results(
        workdir / "results.jsonl",
        dataset=data.name,
        config_hash=config_hash,
        weights=f"{directory.name}@{digest[:12]}",
        split=config.eval_split,
        protocol=config.protocol,
    ) as results:
        if hosts.is_first():
            knobs.note(workdir / "configs" / f"{config_hash}.json", config)
        context = _prepare(config, data, transfers, specs, directory, workdir)
        keyed = zip(subsets, _keys(subsets, specs), strict=True)
        rows = []
        for together in _groups(list(keyed), config):
            trials = [
                Trial(context, subset, key, _checkpoints(workdir, config_hash, key))
                for subset, key in together
            ]
            for method in config.methods:
                own = knobs.own(config, method)
                missing = [t for t in trials if not results.find(method, *t.key, own)]
                if missing:
                    compare.tune(trials, method)
                for trial in missing:
                    transfer.add_rows(results, method, trial.key, compare.row(trial, method))
            for trial in trials if hosts.is_first() else ():
                paths.remove_folder(trial.folder)
            rows += [
                results.find(method, *trial.key, knobs.own(config, method), name)
                for trial in trials
                for method in config.methods
                for name in (*transfers, data.name)
            ]
        return rows


def _checkpoints(workdir, config_hash, key):
    return workdir / "checkpoints" / "-".join(map(str, (config_hash, *key)))


def _groups(subsets, config):
    """Subsets that tune together, with all candidates of each; always the same ones."""
    size = -(-config.population // len(fit.candidates(config)))
    return [subsets[start : start + size] for start in range(0, len(subsets), size)]


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

    spec: store.BankSpec
    records: list[Record]


def _bank_specs(config, data, subsets, transfers, digest) -> dict[str, LabelledSpec]:
    """A bank for each use, shared by all subsets: the trunk sees every image once."""
    specs = {}
    for use in ("train", "val", "eval"):
        records = sorted({record for subset in subsets for record in getattr(subset, use)})
        views = config.views if use == "train" else 1
        names = [record.path for record in records]
        spec = store.bank_spec(config, digest, data.image_dir, names, views)
        specs[use] = LabelledSpec(spec, records)
    for target in transfers.values():
        names = [record.path for record in target.records]
        spec = store.bank_spec(config, digest, target.image_dir, names, views=1)
        specs[target.name] = LabelledSpec(spec, target.records)
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
    mesh = devices.make_mesh()
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
    check_files(sorted(unread, key=str), config.workers)
    model = clip.load(directory, jnp.dtype(config.dtype), devices.replicated(mesh))
    text_kd = zero_shot.text_classifier(model, data.prompts)
    store.check_space([labelled.spec for labelled in banked.values()], model.config)
    banks = {
        use: LabelledBank(
            store.load_or_extract(labelled.spec, model, mesh, config), labelled.records
        )
        for use, labelled in banked.items()
    }
    return Context(config, data, transfers, banks, model, text_kd, mesh, workdir)
