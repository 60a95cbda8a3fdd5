"""One run, top to bottom: data, features, tune, choose, evaluate, rows."""

import collections
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from safe_jax import backbones
from safe_jax.checkpoints import weights
from safe_jax.data import base_to_new, datasets, few_shot
from safe_jax.data.datasets import Dataset
from safe_jax.experiment import compare, keep, knobs, prepare, transfer
from safe_jax.experiment.knobs import Config
from safe_jax.experiment.prepare import Described
from safe_jax.experiment.results import Results, Row
from safe_jax.experiment.trial import Shared, Subset, Trial
from safe_jax.runtime import disk, hosts, paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Any) -> list[Row]:
    """Runs what `config` describes and returns its rows of `workdir/results.jsonl`.

    Several data sets, as `config.dataset=a,b`, take turns. Rows that are there already, of the
    same knobs, data and weights, are kept: a run that was killed goes on where it was. Raises
    `InputError` for what a user can mend.
    """
    workdir = paths.parse(workdir)
    if isinstance(workdir, pathlib.Path):
        disk.check_writable(workdir, "--workdir")
    workdir = paths.absolute(workdir)  # Orbax takes no relative paths
    hosts.check_shared(workdir)
    checked = knobs.read(config)
    if checked.save_classifiers and paths.is_remote(workdir):
        raise InputError(f"config.save_classifiers: --workdir={workdir} is not on a disk")
    if checked.protocol == "tip_adapter":
        log.info("config.protocol=tip_adapter: all validation images choose, and seed 1 is used")
    if checked.protocol == "base_to_new":
        log.info(
            "config.protocol=base_to_new: half of the classes is tuned on, with %s shots",
            ", ".join(map(str, checked.shots)),
        )
    names = datasets.names(checked)
    given = [k for k in ("image_dir", "split_file", "tfds", "prompts_file") if config[k]]
    if len(names) > 1 and given:
        raise InputError(f"config.{given[0]} is for one data set: name one in config.dataset")
    # All data sets before the first run: a mistake is reported before anything is computed.
    described = [_describe(config, name) for name in names]
    # By default accelerators round the operands of float32 products, to 10 bits or to 7.
    with jax.default_matmul_precision("highest"):
        return [row for one in described for row in _run(one, workdir)]


def _describe(given: ConfigDict, name: str) -> Described:
    given = given.copy_and_resolve_references()
    given.dataset = name
    config = knobs.read(given)
    whole, transfers = datasets.load(config), transfer.load(config)
    if config.unreadable == "skip":
        workers = config.workers
        whole = datasets.without_unreadable(whole, workers)
        transfers = {
            to: datasets.transfer_without_unreadable(target, workers)
            for to, target in transfers.items()
        }
    data = whole
    if config.protocol == "base_to_new":
        data, new = base_to_new.divide(whole)
        transfers = {new.name: new}
    subsets = [
        _draw(config, whole, data, shots, seed) for shots in config.shots for seed in config.seeds
    ]
    _warn_of_few(data, max(config.shots))
    return Described(config, data, transfers, subsets)


def _warn_of_few(data, shots):
    """Warns of classes with fewer images than shots: all are used, and no row says so."""
    images = collections.Counter(record.label for record in data.splits.train)
    if few := [label for label, count in images.items() if count < shots]:
        log.warning(
            "%s: %d of %d classes have fewer than %d training images (%s has %d) and give all",
            data.name, len(few), len(data.classnames), shots, data.classnames[few[0]],
            images[few[0]],
        )  # fmt: skip


def _draw(config: Config, whole: Dataset, data: Dataset, shots: int, seed: int) -> Subset:
    """A subset of `data`, which is `whole` or its base classes."""
    drawn = few_shot.subset(whole.splits.train, whole.splits.val, shots, seed)
    train_records, val = (base_to_new.of_base(part, len(data.classnames)) for part in drawn)
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


def _run(described: Described, workdir: pathlib.Path) -> list[Row]:
    config, data, transfers, subsets = described
    directory = paths.parse(backbones.locate(config.weights, config.cache_dir))
    digest = backbones.read_metadata(directory, config.image_size).digest
    uses = prepare.uses(described, digest)
    config_hash = knobs.experiment_hash(config, data, digest, transfers.values())
    with Results(
        workdir / "results.jsonl",
        dataset=data.name,
        config_hash=config_hash,
        weights=weights.name(directory, digest),
        split=config.eval_split,
        protocol=config.protocol,
    ) as results:
        if hosts.is_first():
            knobs.write_config(workdir / "configs" / f"{config_hash}.json", config)
        prepared = prepare.prepare(described, uses, directory, checked=config.unreadable == "skip")
        shared = Shared(config, config_hash, directory, data, transfers, workdir, *prepared)
        keyed = list(zip(subsets, prepare.keys(subsets, uses), strict=True))
        rows = []
        for group in _groups(keyed, config):
            trials = [
                Trial(shared, subset, key, _checkpoints(workdir, config_hash, key))
                for subset, key in group
            ]
            rows += _rows_of(trials, results)
        return rows


def _rows_of(trials: Sequence[Trial], results: Results) -> list[Row]:
    """The rows of every method on trials that are tuned together: those there, and new ones."""
    config = trials[0].shared.config
    knobs_of = {method: knobs.method_knobs(config, method) for method in config.methods}
    for method in config.methods:
        missing = [t for t in trials if not results.find(method, t.key, knobs_of[method])]
        unsaved = keep.unsaved(trials, method) if config.save_classifiers else []
        if missing or unsaved:
            compare.tune(trials, method)
        for trial in unsaved:  # before its row: where there is a row there is a classifier
            keep.save(trial, method)
        for trial in missing:
            row, of_transfers = compare.row(trial, method)
            results.add_all(row, of_transfers)
            if method == "zero_shot" and trial is missing[0]:
                _warn_of_chance(row)
    for trial in trials if hosts.is_first() else ():
        paths.remove_folder(trial.folder)
    found = [
        results.find(method, trial.key, knobs_of[method], name)
        for trial in trials
        for method in config.methods
        for name in (*compare.datasets_of_rows(trials[0]), None)
    ]
    return [row for row in found if row]


def _warn_of_chance(row: Row) -> None:
    """Warns, before anything is tuned for hours, where zero-shot is no better than chance."""
    if said := row.chance:
        log.warning("%s: %s", row.dataset, said)


def _checkpoints(workdir, config_hash, key):
    return workdir / "checkpoints" / "-".join(map(str, (config_hash, *key)))


def _groups(keyed, config):
    """Subsets that tune together, with all candidates of each; the same after every start."""
    candidates = len(config.learning_rates or (0,)) * len(config.weight_decays or (0,))
    size = -(-config.population // candidates)
    return [keyed[start : start + size] for start in range(0, len(keyed), size)]
