"""Choosing alpha, and whatever else a method leaves open: on validation images, never on test.

Axes: c candidates, g... points of a grid.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from safe_jax.bank.view import View
from safe_jax.classifier.evaluate import Measured, Reader, evaluate
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.contract import Method
from safe_jax.tuning.fit import Tuned
from safe_jax.tuning.loop import DivergedError


def not_finite(method: Method) -> DivergedError:
    """What to raise where a method gives logits that are not finite: it names the cause."""
    if method.tunes or any(METHODS[name].tunes for name in method.after):
        return DivergedError("the tuned parameters give no finite logits: lower the learning rate")
    return DivergedError(
        f"{method.label} gives no finite logits, and nothing was tuned: the weights, or the "
        "features that they give of these images, are damaged; convert the checkpoint anew"
    )


class Choice(NamedTuple):
    """The candidate, and the point of the grid, by which validation images are best classified.

    `at` is the place on each axis of the grid. `val_accuracy` is the candidate's over the grid,
    None where nothing was chosen; `best_c` the highest of each candidate, None where one diverged.
    """

    candidate: int
    at: tuple[int, ...]
    val_accuracy: np.ndarray | None
    best_c: list[float | None]


def best_index(accuracy: np.ndarray, loss: np.ndarray) -> tuple[int, ...]:
    """Where on each axis of a grid the highest accuracy is; ties go to the lowest loss.

    Few-shot validation has few images, so ties are common; the loss separates them by how sure
    the classifier is of the right answers.
    """
    best = np.lexsort((np.ravel(loss), -np.ravel(accuracy)))[0]
    return tuple(map(int, np.unravel_index(best, np.shape(accuracy))))


def choose(
    candidates: Sequence[Tuned], grid: Mapping[str, np.ndarray], val: View | None, reader: Reader
) -> Choice:
    """The best candidate, at the best point of its grid, on the images of `val`.

    The first of all where there is nothing to choose or no validation image. Raises
    `DivergedError` where no candidate gives finite logits.
    """
    if val is None or not (grid or len(candidates) > 1):
        return Choice(0, (0,) * len(grid), None, [])
    rated = [_rate(tuned, grid, val, reader) for tuned in candidates]
    accuracy, loss = (np.stack(parts) for parts in zip(*rated, strict=True))
    best, *at = best_index(accuracy, loss)
    if not np.isfinite(loss[best]).all():
        raise not_finite(candidates[best].method)
    best_c = [one.accuracy.max().item() if one.is_finite else None for one in rated]
    return Choice(best, tuple(at), accuracy[best], best_c)


def _rate(tuned, grid, val, reader) -> Measured:
    """Accuracy and loss over a grid; the worst there are where anything is not finite."""
    if not tuned.diverged:
        measured = evaluate(tuned.method, tuned.params, tuned.context, grid, val, reader)
        if measured.is_finite:
            return measured
    shape = [len(values) for values in grid.values()]
    return Measured(np.full(shape, -1.0), np.full(shape, np.inf))
