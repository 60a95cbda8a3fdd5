"""What a run leaves: a method tuned on some images, at the point that was chosen.

Axes: b images of a batch, n images of a view, k classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.special

from safe_jax.bank.view import View
from safe_jax.classifier.choose import not_finite
from safe_jax.classifier.evaluate import Measured, Reader, evaluate, logits_step
from safe_jax.methods.contract import Batch, Method, Params
from safe_jax.runtime import devices


class Origin(NamedTuple):
    """What a classifier was made from."""

    dataset: str
    weights: str
    shots: int
    seed: int
    images: str  # a digest of the images that it was tuned and chosen on
    config_hash: str


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Classifies images, as batches of the arrays that its method takes.

    `name` is the method's in the catalogue; `params` and `context` are trees of arrays, and
    `method` holds the constants that are compiled in. `point` is the chosen point of the method's
    grid (alpha, a, b), in the order of its axes. `classes` are names, by label.
    """

    name: str
    method: Method
    params: Params
    context: Any
    point: Mapping[str, float]
    classes: tuple[str, ...]
    origin: Origin

    def logits(self, batch: Batch) -> jax.Array:
        """`(b, k)`."""
        point = [float(value) for value in self.point.values()]
        arrays = {name: batch[name] for name in self.method.takes}
        return logits_step(self.params, self.context, arrays, point, method=self.method)

    def logits_of(self, view: View, reader: Reader) -> np.ndarray:
        """The logits of a view's images, `(n, k)`."""
        parts = []
        for batch in reader.batches(view):
            counts_b = devices.fetch(batch["mask_b"]) > 0
            parts.append(devices.fetch(self.logits(batch))[counts_b])
        return np.concatenate(parts)

    def probabilities(self, view: View, reader: Reader) -> np.ndarray:
        """The softmax of the logits of a view's images, `(n, k)`."""
        return scipy.special.softmax(self.logits_of(view, reader), axis=1)

    def measure(self, grid: Mapping[str, Any], view: View, reader: Reader) -> Measured:
        """Accuracy in per cent and mean loss at every point of a grid of the method's axes.

        Raises `loop.DivergedError` where logits are not finite: the last update may have diverged,
        and no training loss was computed after it.
        """
        measured = evaluate(self.method, self.params, self.context, grid, view, reader)
        if not measured.is_finite:
            raise not_finite(self.method)
        return measured

    def evaluate(self, view: View, reader: Reader) -> float:
        """Accuracy in per cent on a view's images, at the chosen point; raises as `measure`."""
        point = {axis: np.array([value]) for axis, value in self.point.items()}
        return self.measure(point, view, reader).accuracy.item()
