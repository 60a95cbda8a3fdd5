"""What a trial tuned, as a classifier of images that can be kept.

Axes: n validation images, k classes.
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from safe_jax.classifier import artifact, temperature
from safe_jax.classifier.image_classifier import Backbone, ImageClassifier, Making, Rated, Worse
from safe_jax.data import datasets, photos
from safe_jax.experiment import compare, knobs
from safe_jax.experiment.knobs import Config
from safe_jax.experiment.trial import Outcome, Trial
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime import hosts


class Validation(NamedTuple):
    """Logits of the validation images at the chosen point, and those of zero-shot."""

    logits_nk: np.ndarray
    zero_shot_nk: np.ndarray
    label_n: np.ndarray

    def accuracies(self) -> tuple[float, float]:
        """The method's and zero-shot's, in per cent."""
        right, before = self.right()
        return 100 * float(right.mean()), 100 * float(before.mean())

    def right(self) -> tuple[np.ndarray, np.ndarray]:
        """Which images the method classifies rightly, and which zero-shot does."""
        return (
            self.logits_nk.argmax(1) == self.label_n,
            self.zero_shot_nk.argmax(1) == self.label_n,
        )

    def worse(self, classes: Sequence[str]) -> dict[str, Worse]:
        """The classes of which zero-shot recognises more images."""
        right, before = self.right()
        found = {}
        for label, name in enumerate(classes):
            of_class = self.label_n == label
            if of_class.any() and right[of_class].mean() < before[of_class].mean():
                found[name] = Worse(
                    zero_shot=round(100 * float(before[of_class].mean()), 2),
                    tuned=round(100 * float(right[of_class].mean()), 2),
                )
        return found


def validation(trial: Trial, name: str) -> Validation | None:
    """How a tuned method classifies a trial's validation images; None where there are none."""
    if not trial.subset.val:
        return None
    compare.tune([trial], "zero_shot")
    reader = trial.shared.reader
    of_method, of_zero_shot = (
        trial.outcomes[method].classifier.logits_of(trial.view(METHODS[method], "val"), reader)
        for method in (name, "zero_shot")
    )
    return Validation(of_method, of_zero_shot, trial.view(METHODS[name], "val").labels)


def image_classifier(
    trial: Trial, name: str, notes: Sequence[str] = (), seen: Sequence[str] = ()
) -> ImageClassifier:
    """A tuned method with its temperature, and with all that stands before it.

    Args:
        notes: what whoever uses the classifier should know.
        seen: digests of the images that it was tuned or chosen on.
    """
    shared, method, outcome = trial.shared, METHODS[name], trial.outcomes[name]
    config, data = shared.config, shared.data
    found = validation(trial, name)
    earlier_pool = None
    if "tuned_bd" in method.takes:
        earlier_pool = trial.outcomes[method.after[0]].classifier.params["attnpool"]
    return ImageClassifier(
        classifier=outcome.classifier,
        backbone=Backbone(
            name=shared.weights_dir.name,
            digest=shared.metadata.digest,
            family=shared.metadata.family.name,
            config=shared.metadata.config.model_dump(mode="json"),
            trunk_dtype=config.dtype,
            dense_dtype=config.bank_dtype,
        ),
        tower=shared.tower,
        state=shared.state,
        temperature=temperature.choose(found.logits_nk, found.label_n) if found else 1.0,
        prompts=data.prompts,
        templates=_templates(config),
        making=_making(trial, name, found, notes, seen),
        earlier_pool=earlier_pool,
    )


def _templates(config: Config) -> tuple[str, ...]:
    """What prompts were made of; none where they were written by hand."""
    if config.prompts_file:
        return ()
    return config.templates or datasets.describe(config).templates


def _making(trial, name, found: Validation | None, notes, seen) -> Making:
    config, origin = trial.shared.config, trial.origin
    fields: dict[str, Any] = {}
    if found:
        accuracy, zero_shot = found.accuracies()
        fields = {
            "val_accuracy": round(accuracy, 4),
            "val_accuracy_zero_shot": round(zero_shot, 4),
            "worse": found.worse(trial.shared.data.classnames),
        }
    recipe_of = _tuned_outcome(trial, name)
    if recipe_of and recipe_of.recipe:
        recipe = recipe_of.recipe
        fields |= {
            "epochs": recipe.epochs,
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "candidates": [Rated(**one.model_dump()) for one in recipe_of.candidates],
        }
    return Making(
        dataset=origin.dataset,
        shots=origin.shots,
        seed=origin.seed,
        images=origin.images,
        config_hash=origin.config_hash,
        train_images=len(trial.subset.train),
        val_images=len(trial.subset.val),
        temperature_images=len(trial.subset.val),
        selection=config.selection,
        notes=list(notes),
        seen=sorted(seen),
        **fields,
    )


def _tuned_outcome(trial: Trial, name: str) -> Outcome | None:
    """The outcome whose recipe tuned the method: its own, or that of the method before it."""
    for method in (name, *METHODS[name].after):
        if trial.outcomes[method].recipe:
            return trial.outcomes[method]
    return None


def _folder(trial: Trial, name: str) -> pathlib.Path:
    """Where a trial's classifier is kept: a folder whose name has all that it depends on."""
    shared = trial.shared
    which = [shared.config_hash, shared.weights, knobs.method_knobs(shared.config, name), trial.key]
    digest = hashlib.sha256(json.dumps(which).encode()).hexdigest()[:8]
    shots, seed, _ = trial.key
    title = f"{shared.data.name}-{name}-{shots}shot-seed{seed}-{digest}".replace("/", "-")
    return shared.workdir / "classifiers" / title


def unsaved(trials: Sequence[Trial], name: str) -> list[Trial]:
    """The trials whose classifier by a method is not on the disk."""
    return [t for t in trials if not hosts.on_first(lambda t=t: _folder(t, name).exists())]


def save(trial: Trial, name: str) -> None:
    """Keeps a tuned method as a folder under `WORKDIR/classifiers`."""
    data, subset = trial.shared.data, trial.subset
    seen = [photos.digest(data.image_dir / r.path) for r in (*subset.train, *subset.val)]
    classifier = image_classifier(trial, name, seen=seen)
    hosts.on_first(lambda: artifact.save(classifier, _folder(trial, name)))
