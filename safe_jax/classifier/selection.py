"""Choosing alpha, and whatever else a method leaves open: on validation images, never on test."""

import numpy as np

SELECTIONS = ("few_shot_val", "full_val", "fixed")


def best_index(accuracy: np.ndarray, loss: np.ndarray) -> tuple[int, ...]:
    """Where on each axis of a grid the highest accuracy is; ties go to the lowest loss.

    Few-shot validation has few images, so ties are common; the loss tells them apart by how sure
    the classifier is of the right answers.
    """
    best = np.lexsort((np.ravel(loss), -np.ravel(accuracy)))[0]
    return tuple(map(int, np.unravel_index(best, np.shape(accuracy))))
