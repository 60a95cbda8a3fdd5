"""Each method on each trial: tuned, chosen, and made into a row."""

import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safe_jax.bank.view import View
from safe_jax.classifier.choose import choose
from safe_jax.classifier.classifier import Classifier
from safe_jax.classifier.evaluate import Reader
from safe_jax.data.base_to_new import NEW
from safe_jax.experiment import examples, knobs
from safe_jax.experiment.results import Candidate, Elsewhere, Row
from safe_jax.experiment.trial import Outcome, Trial
from safe_jax.methods import catalogue
from safe_jax.methods.contract import Start
from safe_jax.methods.text_head import with_head
from safe_jax.tuning import fit
from safe_jax.tuning.fit import Checkpoints, Job, Member, Tuned

CLOSED_SET = (
    "no answer for classes that were not tuned on: each class has parameters or images of its own"
)


def tune(trials: Sequence[Trial], name: str) -> None:
    """Tunes a method on trials, as far as it has not been, and notes the outcome of each.

    Raises `loop.DivergedError` where no candidate of a trial kept a finite loss.
    """
    method = catalogue.METHODS[name]
    for earlier in method.after:
        tune(trials, earlier)
    trials = [trial for trial in trials if name not in trial.outcomes]
    if not trials:
        return
    settings = knobs.settings(trials[0].shared.config, name)
    starts, seconds = [], []
    for trial in trials:
        began = time.perf_counter()
        starts.append(method.start(trial.setting(method), settings))
        seconds.append(time.perf_counter() - began)
    tuned = _tuned(trials, starts, name)
    for trial, candidates, before in zip(trials, tuned, seconds, strict=True):
        trial.outcomes[name] = _outcome(trial, name, settings, candidates, before)


def _tuned(trials, starts: Sequence[Start], name) -> list[list[Tuned]]:
    """On each trial the candidates: the method tuned by each recipe, or as it started."""
    method, shared = catalogue.METHODS[name], trials[0].shared
    if not method.tunes:
        return [[fit.untuned(start, shared.mesh)] for start in starts]
    recipes = knobs.recipes(shared.config, name)
    jobs = [
        Job(start, trial.train_images(method), trial.subset.seed, trial.key)
        for trial, start in zip(trials, starts, strict=True)
    ]
    members = [Member(job, recipe) for job in jobs for recipe in recipes]
    folders = {trial.key: trial.folder for trial in trials}

    def folder(members: Sequence[Member]):
        """A name for what is tuned, so that no other checkpoint is resumed."""
        which = [[job.key, recipe.learning_rate, recipe.weight_decay] for job, recipe in members]
        text = json.dumps([which, knobs.method_knobs(shared.config, name)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return folders[members[0].job.key] / f"{name}-{digest}"

    checkpoints = Checkpoints(folder, shared.config.checkpoint_every)
    several = len(recipes) > 1
    tuned = fit.fit_all(members, shared.config.population, shared.mesh, checkpoints, several)
    return [tuned[at : at + len(recipes)] for at in range(0, len(tuned), len(recipes))]


def _outcome(trial: Trial, name, settings, candidates: Sequence[Tuned], seconds) -> Outcome:
    began = time.perf_counter()
    method, shared = catalogue.METHODS[name], trial.shared
    grid = method.grid(settings, trial.classifiers(method.after))
    val = None
    if trial.subset.val and (grid or len(candidates) > 1):
        val = trial.view(method, "val")
    choice = choose(candidates, grid, val, shared.reader)
    tuned = candidates[choice.candidate]
    point = {axis: values[i] for (axis, values), i in zip(grid.items(), choice.at, strict=True)}
    classifier = Classifier(
        name, tuned.method, tuned.params, tuned.context, point, shared.data.classnames, trial.origin
    )
    several = len(candidates) > 1
    rated = [
        Candidate(
            learning_rate=one.recipe.learning_rate,
            weight_decay=one.recipe.weight_decay,
            val_accuracy=accuracy,
        )
        for one, accuracy in zip(candidates, choice.best_c or [None] * len(candidates), strict=True)
        if several and one.recipe
    ]
    return Outcome(
        classifier=classifier,
        grid=grid,
        at=choice.at,
        val_accuracy=choice.val_accuracy,
        candidates=rated,
        recipe=tuned.recipe,
        losses=tuned.epoch_losses,
        seconds=seconds + sum(one.seconds for one in candidates) + time.perf_counter() - began,
    )


def set_point(trial: Trial, name: str, point: Mapping[str, float]) -> None:
    """Has a tuned method's classifier stand at another point of its grid."""
    outcome = trial.outcomes[name]
    classifier = dataclasses.replace(outcome.classifier, point=point)
    trial.outcomes[name] = dataclasses.replace(outcome, classifier=classifier)


def row(trial: Trial, name: str) -> tuple[Row, dict[str, Elsewhere]]:
    """A method's row, once it is tuned, and its accuracy on each of `datasets_of_rows`.

    Sets that it has no answer for are left out. Its seconds are all that it takes by itself:
    SAFE-A's have SAFE's tuning, though it is shared; of a tuning together with others they are an
    even share.
    """
    began = time.perf_counter()
    method, shared, outcome = catalogue.METHODS[name], trial.shared, trial.outcomes[name]
    config, classifier, reader = shared.config, outcome.classifier, shared.reader
    view = functools.partial(trial.view, method)
    elsewhere = _elsewhere(trial, name)
    fields: dict[str, Any] = {
        **_accuracy(outcome, view("eval"), reader),
        "selection": config.selection if outcome.grid or outcome.candidates else "none",
        **_chosen_point(classifier),
        **_how_chosen(outcome),
    }
    if config.protocol == "base_to_new" and (new := elsewhere.pop(NEW, None)) is not None:
        mean = statistics.harmonic_mean([fields["accuracy"], new.accuracy])
        fields |= {"new_accuracy": new.accuracy, "harmonic_mean": mean}
    if shared.heads and not method.open_classes:
        fields["closed_set"] = CLOSED_SET
    if method.blends:
        fields |= examples.of_blend(trial, outcome)
    if method_knobs := knobs.method_knobs(config, name):
        fields["knobs"] = method_knobs
    before = sum(trial.outcomes[earlier].seconds for earlier in method.after)
    seconds = before + outcome.seconds + time.perf_counter() - began
    shots, seed, images = trial.key
    found = Row(
        dataset=shared.data.name, method=name, shots=shots, seed=seed, images=images,
        split=config.eval_split, protocol=config.protocol, config_hash=shared.config_hash,
        weights=shared.weights, released=shared.released, classes=len(shared.data.classnames),
        eval_images=len(trial.subset.eval), seconds=seconds,
        unreadable=shared.unreadable or None, **fields,
    )  # fmt: skip
    return found, elsewhere


def datasets_of_rows(trial: Trial) -> list[str]:
    """The transfers that have rows of their own: base to new is in one row."""
    shared = trial.shared
    return [] if shared.config.protocol == "base_to_new" else list(shared.transfers)


def _elsewhere(trial: Trial, name: str) -> dict[str, Elsewhere]:
    """How it is on each transfer, those left out that have classes for which there is no answer."""
    method, shared = catalogue.METHODS[name], trial.shared
    classifier = trial.outcomes[name].classifier
    found = {}
    for to in shared.transfers:
        asked = classifier
        if to in shared.heads:
            if not method.open_classes:
                continue
            context = with_head(classifier.context, shared.heads[to])
            asked = dataclasses.replace(classifier, context=context)
        target = shared.transfers[to]
        accuracy = asked.evaluate(trial.view(method, to), shared.reader)
        found[to] = Elsewhere(accuracy, len(target.prompts or target.classes), len(target.records))
    return found


def _chosen_point(classifier: Classifier) -> dict[str, Any]:
    """Alpha, a and b have fields of their own; a method may have axes of other names."""
    point = {axis: float(value) for axis, value in classifier.point.items()}
    fields: dict[str, Any] = {
        axis: point.pop(axis) for axis in ("alpha", "a", "b") if axis in point
    }
    return fields | {"point": point}


def _how_chosen(outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if outcome.candidates and outcome.recipe:
        fields["learning_rate"] = outcome.recipe.learning_rate
        fields["weight_decay"] = outcome.recipe.weight_decay
        fields["candidates"] = outcome.candidates
    if outcome.losses is not None:
        fields["losses"] = outcome.losses.tolist()
    return fields


def _accuracy(outcome: Outcome, view: View, reader: Reader) -> dict[str, Any]:
    """Accuracy on `view` at the chosen point, and around it.

    Along the only axis of a grid it is a curve, on validation images and on `view`, for the plots
    of a report: nothing is chosen by it. Of a grid with more axes, which would have thousands of
    points, it is the validation accuracy that chose the point.
    """
    classifier = outcome.classifier
    if len(outcome.grid) != 1:
        fields: dict[str, Any] = {"accuracy": classifier.evaluate(view, reader)}
        if outcome.val_accuracy is not None:
            fields["val_accuracy"] = float(outcome.val_accuracy[outcome.at])
        return fields
    curve = {axis: values.tolist() for axis, values in outcome.grid.items()}
    if outcome.val_accuracy is not None:
        curve["val"] = np.ravel(outcome.val_accuracy).tolist()
    accuracy = classifier.measure(outcome.grid, view, reader).accuracy
    curve["eval"] = accuracy.tolist()
    return {"accuracy": float(accuracy[outcome.at]), "curve": curve}
