"""CoOp's few-shot subsets, exactly (KaiyangZhou/CoOp and Dassl, `generate_fewshot_dataset`)."""

import random
from collections.abc import Sequence

VAL_SHOTS = 4  # at most; validation must not cost more labels than training does


def subset(train: Sequence, val: Sequence, shots: int, seed: int) -> tuple[list, list]:
    """Draws `shots` training and `min(shots, 4)` validation records a class.

    One generator draws first from `train`, then goes on over `val`; classes come in the order in
    which they first appear. A class with fewer records gives all that it has.

    Args:
        train, val: records with the label second, such as rows of a split file.

    Raises `ValueError` where `shots` is not positive.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, not {shots}")
    rng = random.Random(seed)
    return _draw(train, shots, rng), _draw(val, min(shots, VAL_SHOTS), rng)


def _draw(records, count, rng):
    by_label = {}
    for record in records:
        by_label.setdefault(record[1], []).append(record)
    drawn = []
    for items in by_label.values():
        drawn += rng.sample(items, count) if len(items) >= count else items
    return drawn
