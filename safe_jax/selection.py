"""Choosing alpha: on validation images, never on test."""

import numpy as np

SELECTIONS = ("few_shot_val", "full_val", "fixed")


def best_index(accuracy_g: np.ndarray, loss_g: np.ndarray) -> int:
    """Index of the highest accuracy; ties go to the lowest loss.

    Few-shot validation has few images, so ties are common; the loss tells them apart by how sure
    the classifier is of the right answers.
    """
    return int(np.lexsort((loss_g, -np.asarray(accuracy_g)))[0])
