"""The same few-shot subsets as CoOp's (KaiyangZhou/CoOp and Dassl, `generate_fewshot_dataset`)."""

import random
from collections.abc import Sequence

VAL_SHOTS = 4  # at most; validation must not need more labels than training


def subset(train: Sequence, val: Sequence, shots: int, seed: int) -> tuple[list, list]:
    """Draws `shots` training and `min(shots, 4)` validation records a class.

    A single generator draws from `train` and then from `val`, class by class in the order of their
    first records. From a class with fewer records all are taken.

    Args:
        train, val: records with the label second, such as rows of a split file.

    Raises `ValueError` if `shots` is not positive.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, not {shots}")
    rng = random.Random(seed)
    return _draw(train, shots, rng), _draw(val, min(shots, VAL_SHOTS), rng)


def _draw(records: Sequence, count: int, rng: random.Random) -> list:
    by_label = {}
    for record in records:
        by_label.setdefault(record[1], []).append(record)
    drawn = []
    for items in by_label.values():
        drawn += rng.sample(items, count) if len(items) >= count else items
    return drawn
