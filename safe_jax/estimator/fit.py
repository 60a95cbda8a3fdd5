"""Labelled images to a classifier: a trial of one method, on all images or on some of each class.

Axes: n images, k classes.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import random
import shutil
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tqdm
from pydantic import AfterValidator

from safe_jax import backbones
from safe_jax.bank.extraction import Workers
from safe_jax.classifier import chance, predict, temperature
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.classifier.predict import Source
from safe_jax.data import few_shot, photos, prompts
from safe_jax.data.datasets import Dataset
from safe_jax.data.photos import Photos
from safe_jax.data.records import Record, Splits, hold_out_val
from safe_jax.experiment import compare, keep, knobs, prepare
from safe_jax.experiment.knobs import Config, ImageSize, NotEmpty, Rates, Seed, Shots
from safe_jax.experiment.prepare import Described
from safe_jax.experiment.trial import Shared, Subset, Trial
from safe_jax.methods import catalogue
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.contract import Epochs, Recipe
from safe_jax.runtime import paths, schema
from safe_jax.runtime.errors import InputError, counted, listing
from safe_jax.runtime.schema import ListOrTuple, Text, knob
from safe_jax.tuning.loop import DivergedError

log = logging.getLogger(__name__)

MOST_CALIBRATED = 2000  # images that choose a temperature
RATES = 0.1, 1, 10  # times the method's learning rate: what validation images choose from


def _is_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"one of {', '.join(METHODS)} is expected")
    return name


class FitSettings(schema.Model):
    """What a user may choose of a fit."""

    weights: schema.Name = knob("RN50", "the pre-trained model, as config.weights")
    image_size: ImageSize = knob(0, "pixels of a side, as config.image_size")
    method: Annotated[str, AfterValidator(_is_method)] = knob("safe", "by its name in configs")
    shots: Shots | None = knob(None, "training images a class; all if not given")
    seed: Seed = knob(1, "of the draw of shots, and of the order of training")
    templates: Annotated[tuple[Text, ...], NotEmpty, ListOrTuple] = knob(
        ("a photo of a {}.",), "prompts, each with one {}; several are averaged"
    )
    epochs: Epochs | None = knob(None, "passes over the training images; the method's if not set")
    learning_rates: Rates = knob(
        (), "validation images choose one; by default 0.1, 1 and 10 times the method's"
    )
    cache_dir: Text = knob("~/.cache/safe_jax", "downloads, banks and checkpoints")
    workers: Workers = knob(0, "threads that decode; 0: one for each core")
    strict: bool = knob(False, "an image that cannot be read is an error, not left out")


class _Divided(NamedTuple):
    """Images to train and to choose with, none of them on both sides, and digests of them."""

    photos: Photos
    train: list[Record]
    val: list[Record]
    digests: dict[str, str]


def fit(given: Photos, settings: FitSettings) -> ImageClassifier:
    """Tunes a method on labelled images, and chooses what it leaves open on validation images.

    A test split is not looked at. Raises `InputError` for what a user can mend.
    """
    directory = paths.parse(backbones.locate(settings.weights, settings.cache_dir))
    divided = _divide(given, settings)
    config = _config(settings, divided)
    data = _dataset(divided.photos, config)
    shots = settings.shots or max(_counts(divided.train).values())
    subset = Subset(shots, settings.seed, divided.train, divided.val, [])
    described = Described(config, data, {}, [subset])
    digest = backbones.read_metadata(directory, config.image_size).digest
    uses = prepare.uses(described, digest)
    (key,) = prepare.keys([subset], uses)
    config_hash = knobs.experiment_hash(config, data, digest)
    name = "-".join(map(str, (settings.method, config_hash, *key)))
    folder = paths.cache(settings.cache_dir).absolute() / "tuning" / name
    # A fit that was killed goes on at its last checkpoint; two of the same take turns.
    with (
        paths.lock(folder.with_suffix(".lock")),
        _removed_where_in_vain(folder),
        jax.default_matmul_precision("highest"),
    ):
        prepared = prepare.prepare(described, uses, directory, checked=True)
        shared = Shared(config, config_hash, directory, data, {}, folder, *prepared)
        trial = Trial(shared, subset, key, folder)
        compare.tune([trial], "zero_shot")
        compare.tune([trial], settings.method)
        notes = [*_notes_of_weights(trial), *_keep_what_helps(trial, settings.method)]
        for note in notes:
            log.warning("%s", note)
        used = {divided.digests[record.path] for record in (*divided.train, *divided.val)}
        classifier = keep.image_classifier(trial, settings.method, notes, sorted(used))
        classifier = _calibrated(classifier, divided, settings)
        shutil.rmtree(folder, ignore_errors=True)
    return classifier


@contextlib.contextmanager
def _removed_where_in_vain(folder: pathlib.Path) -> Iterator[None]:
    """Removes checkpoints of what diverged, for it would diverge again; others are gone on from."""
    try:
        yield
    except DivergedError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _divide(given: Photos, settings: FitSettings) -> _Divided:
    workers = settings.workers or os.cpu_count() or 1
    wanted = {name: part for name, part in given.parts.items() if name != "test"}
    unreadable = "refuse" if settings.strict else "skip"
    examined = photos.examine(given._replace(parts=wanted), unreadable, workers)
    parts = {"train": [], **examined.photos.parts}
    if not parts.get("val"):
        parts["train"], parts["val"] = hold_out_val(parts["train"])
    usable = photos.without_copies(examined.photos._replace(parts=parts), examined.digests)
    train, val = usable.parts["train"], usable.parts["val"]
    counts = _counts(train)
    if absent := [name for label, name in enumerate(usable.classes) if not counts[label]]:
        raise InputError(f"no training image of {counted(len(absent), 'class')}:" + listing(absent))
    if len(usable.classes) < 2:
        raise InputError(f"at least two classes are expected, not {len(usable.classes)}")
    if settings.shots:
        train, val = few_shot.subset(train, val, settings.shots, settings.seed)
    return _Divided(usable, train, val, examined.digests)


def _counts(records: Sequence[Record]) -> collections.Counter:
    return collections.Counter(record.label for record in records)


def _config(settings: FitSettings, divided: _Divided) -> Config:
    """The config of an experiment with this one trial."""
    config: Any = knobs.default_config()
    of_val = "few_shot_val" if settings.shots else "full_val"
    config.update(
        weights=settings.weights,
        templates=settings.templates,
        methods=(settings.method,),
        seeds=(settings.seed,),
        cache_dir=settings.cache_dir,
        image_size=settings.image_size,
        workers=settings.workers,
        selection=of_val if divided.val else "fixed",
    )
    tuned = _tuned_method(settings.method)
    if tuned and settings.epochs:
        _set_epochs(config, tuned, settings.epochs)
    read = knobs.read(config)
    if not tuned or not divided.val:
        if len(settings.learning_rates) > 1:
            log.warning("no validation image chooses a learning rate: the first is taken")
        rates = settings.learning_rates[:1]
        return read.model_copy(update={"learning_rates": rates}) if tuned else read
    rate = knobs.for_method(read, tuned, Recipe).learning_rate
    rates = settings.learning_rates or tuple(float(f"{rate * factor:g}") for factor in RATES)
    return read.model_copy(update={"learning_rates": rates})


def _tuned_method(name: str) -> str | None:
    """The method whose rates are chosen: the first of those before it that tunes, or itself."""
    return next((m for m in (*METHODS[name].after, name) if METHODS[m].tunes), None)


def _set_epochs(config: Any, method: str, epochs: int) -> None:
    groups = [*catalogue.METHODS[method].shares, method]
    having = [g for g in groups if "epochs" in METHODS[g].knobs.model_fields]
    if having:
        config[having[-1]].epochs = epochs
    else:
        config.epochs = epochs


def _dataset(usable: Photos, config: Config) -> Dataset:
    spoken = [name.replace("_", " ") for name in usable.classes]
    sentences = prompts.fill(config.templates, spoken)
    splits = Splits(usable.parts["train"], usable.parts["val"], [])
    return Dataset(usable.name, usable.image_dir, tuple(usable.classes), sentences, splits, {})


def _notes_of_weights(trial: Trial) -> list[str]:
    """Whether zero-shot does better than chance, on all labelled images."""
    classifier = trial.outcomes["zero_shot"].classifier
    right = count = 0
    for use in ("train", "val") if trial.subset.val else ("train",):
        view = trial.view(METHODS["zero_shot"], use)
        answer_n = classifier.logits_of(view, trial.shared.reader).argmax(1)
        right += int((answer_n == view.labels).sum())
        count += len(view)
    said = chance.note(right, count, len(classifier.classes))
    return [said] if said else []


def _keep_what_helps(trial: Trial, name: str) -> list[str]:
    """Sets alpha to 0 where a blend beats zero-shot on no validation image; gives notes of it."""
    found = keep.validation(trial, name)
    if found is None:
        return ["no validation image: nothing was chosen, and how good it is was not measured"]
    accuracy, zero_shot = found.accuracies()
    method = METHODS[name]
    if accuracy > zero_shot or name == "zero_shot":
        return []
    said = (
        f"on {len(found.label_n)} validation images {method.label} ({accuracy:.2f} %) does not "
        f"beat zero-shot ({zero_shot:.2f} %)"
    )
    if not method.blends:
        return [said]
    compare.set_point(trial, name, {"alpha": 0.0})
    return [f"{said}: alpha 0 is kept, which is zero-shot CLIP"]


def _calibrated(
    classifier: ImageClassifier, divided: _Divided, settings: FitSettings
) -> ImageClassifier:
    """The same with its temperature chosen on validation images that `shots` leaves out, too.

    Those that choose alpha are equally many of each class. How sure a classifier may be depends on
    how frequent classes are, and that the other images tell.
    """
    records = divided.photos.parts["val"]
    if len(records) == len(divided.val):
        return classifier
    if len(records) > MOST_CALIBRATED:
        records = random.Random(settings.seed).sample(records, MOST_CALIBRATED)
    sources = [Source(r.path, divided.photos.image_dir / r.path) for r in records]
    logits = []
    with tqdm.tqdm(total=len(sources), unit=" images", desc="calibrating", delay=2) as bar:
        for batch in predict.score(classifier, sources, len(sources), settings.workers):
            logits.append(batch.logits_nk)
            bar.update(len(batch.sources))
    label_n = np.array([record.label for record in records])
    seen = {*classifier.making.seen, *(divided.digests[record.path] for record in records)}
    making = classifier.making.model_copy(
        update={"temperature_images": len(records), "seen": sorted(seen)}
    )
    chosen = temperature.choose(np.concatenate(logits), label_n)
    return dataclasses.replace(classifier, temperature=chosen, making=making)


def summary(classifier: ImageClassifier) -> str:
    """What was fitted, on what, what was chosen and what that gave, for people."""
    making, inner = classifier.making, classifier.classifier
    lines = [
        f"{METHODS[inner.name].label} on {classifier.backbone.name}: {len(classifier.classes)} "
        f"classes, {making.train_images} training and {making.val_images} validation images"
    ]
    chosen = [f"{axis} {value:g}" for axis, value in inner.point.items()]
    if making.learning_rate is not None:
        chosen.insert(0, f"learning rate {making.learning_rate:g}")
    chosen.append(f"temperature {classifier.temperature:g}")
    lines.append(f"{'chosen' if making.val_images else 'taken'}: {', '.join(chosen)}")
    if making.val_accuracy is not None and making.val_accuracy_zero_shot is not None:
        lines.append(
            f"right on {making.val_accuracy:.2f} % of the validation images, which chose this; "
            f"zero-shot on {making.val_accuracy_zero_shot:.2f} %"
        )
    for name, worse in making.worse.items():
        lines.append(f"worse than zero-shot: {name}, {worse.zero_shot:g} % to {worse.tuned:g} %")
    return "\n".join(lines)
