"""`SafeClassifier`: a classifier of images with scikit-learn's conventions for estimators.

scikit-learn is not imported; its `clone`, `cross_val_score` and `GridSearchCV` work with it.

Axes: n images, h rows and w columns of cells, k classes.
"""

import inspect
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from safe_jax.classifier import artifact, predict
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.classifier.predict import Source
from safe_jax.data import photos
from safe_jax.estimator import fit
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError

Images = Iterable[Any]


class SafeClassifier:
    """Tunes CLIP's attention pool on a few labelled images a class, and classifies images.

    Images are paths, Pillow images or uint8 arrays `(height, width, 3)`; labels are class names, of
    which prompts are made. What is open (learning rate, alpha, temperature) is chosen on a fifth of
    the images, which `fit` holds out of training.

    Args:
        weights: the pre-trained model: RN50, RN101, RN50x4, RN50x16, RN50x64, small, or a directory
            of converted weights.
        method: safe, or another method by its name in configs.
        shots: training images a class; None takes all.
        seed: of the draw of shots, and of the order of training.
        templates: prompts, each with `{}` for the class name; several are averaged.
        epochs: passes over the training images; None takes the method's.
        learning_rates: validation images choose one; without any, of 0.1, 1 and 10 times the
            method's.
        cache_dir: the folder for downloads, banks and checkpoints.
        workers: threads that decode; 0 takes one for each core.
        strict: whether an image that cannot be read is an error; else it is left out.

    Attributes:
        classes_: the class names, sorted, `(k,)`.
        classifier_: what was fitted, with all that was chosen and measured in `making`.
    """

    classes_: np.ndarray
    classifier_: ImageClassifier

    def __init__(
        self, weights: str = "RN50", method: str = "safe", shots: int | None = None, seed: int = 1,
        templates: Sequence[str] = ("a photo of a {}.",), epochs: int | None = None,
        learning_rates: Sequence[float] = (), cache_dir: str = "~/.cache/safe_jax",
        workers: int = 0, strict: bool = False,
    ):  # fmt: skip
        self.weights = weights
        self.method = method
        self.shots = shots
        self.seed = seed
        self.templates = templates
        self.epochs = epochs
        self.learning_rates = learning_rates
        self.cache_dir = cache_dir
        self.workers = workers
        self.strict = strict

    def fit(self, images: Images, labels: Iterable[str]) -> Self:
        """Tunes on labelled images. Raises `InputError` for what a user can mend."""
        settings = schema.check(fit.FitSettings, self.get_params(), "")
        return self._keep(fit.fit(photos.of_lists(images, labels), settings))

    def _keep(self, classifier: ImageClassifier) -> Self:
        self.classifier_ = classifier
        self.classes_ = np.array(classifier.classes)
        return self

    def predict(self, images: Images) -> np.ndarray:
        """The class name of each image, `(n,)`. Raises `InputError` for one that cannot be read."""
        answer_n = self._logits(images).argmax(1)
        return self.classes_[answer_n]

    def predict_proba(self, images: Images) -> np.ndarray:
        """The probability of each class of `classes_`, `(n, k)`; raises as `predict`."""
        logits_nk = self._logits(images)
        scored = predict.Scored([], [], logits_nk, {})
        return scored.probabilities(self.classifier_.temperature)

    def score(self, images: Images, labels: Iterable[str]) -> float:
        """The accuracy, from 0 to 1."""
        wanted = list(labels)
        predicted = self.predict(images)
        if len(wanted) != len(predicted):
            raise InputError(
                f"a label for each image is expected: {len(predicted)} and {len(wanted)}"
            )
        return float(np.mean(predicted == np.array(wanted)))

    def attention(self, images: Images, pool: str = "tuned") -> np.ndarray:
        """Where a pool looks in each image, `(n, h, w)`: the mean over heads, summing to 1.

        Args:
            pool: `tuned`, or `original`.
        """
        self._check_fitted()
        pools = ["original", "tuned"] if self.classifier_.has_tuned_pool else ["original"]
        if pool not in pools:
            raise InputError(f"pool={pool!r}: one of {', '.join(pools)} is expected")
        batches = list(self._scored(images, with_attention=True))
        return np.concatenate([batch.attention[pool] for batch in batches])

    def _logits(self, images: Images) -> np.ndarray:
        self._check_fitted()
        return np.concatenate([batch.logits_nk for batch in self._scored(images)])

    def _scored(self, images: Images, with_attention: bool = False):
        sources = [Source(*photos.as_source(image)) for image in images]
        if not sources:
            raise InputError("at least one image is expected")
        for batch in predict.score(
            self.classifier_, sources, len(sources), self.workers, with_attention
        ):
            for source, reason in zip(batch.sources, batch.reasons, strict=True):
                if reason:
                    raise InputError(f"{source.name}: {reason}")
            yield batch

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes a folder that needs nothing else. Raises `InputError` if it exists."""
        self._check_fitted()
        artifact.save(self.classifier_, pathlib.Path(folder).expanduser())

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> Self:
        """The classifier in a folder that `save` or `safe-jax fit` wrote.

        Raises `InputError` where it is not whole and as it was written.
        """
        classifier = artifact.load(pathlib.Path(folder).expanduser())
        making = classifier.making
        return cls(
            weights=classifier.backbone.name,
            method=classifier.classifier.name,
            shots=making.shots,
            seed=making.seed,
            templates=tuple(classifier.templates) or ("a photo of a {}.",),
            epochs=making.epochs,
        )._keep(classifier)

    def _check_fitted(self) -> None:
        if not hasattr(self, "classifier_"):
            raise InputError("this SafeClassifier is not fitted yet: call fit, or load one")

    # What scikit-learn asks of an estimator.

    _estimator_type = "classifier"

    @classmethod
    def _names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Changes arguments of the constructor. Raises `ValueError` for an unknown one."""
        for name, value in params.items():
            if name not in self._names():
                raise InputError(f"{name} is no parameter; one of {', '.join(self._names())} is")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"SafeClassifier({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        import sklearn.utils

        utils: Any = sklearn.utils  # whose stubs lack these
        return utils.Tags(
            estimator_type="classifier",
            target_tags=utils.TargetTags(required=True),
            classifier_tags=utils.ClassifierTags(),
            input_tags=utils.InputTags(two_d_array=False, string=True),
        )
