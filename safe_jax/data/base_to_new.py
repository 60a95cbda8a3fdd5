"""Base to new, the protocol of CoCoOp (arXiv 2203.05557): half of the classes are never tuned on.

Classes are sorted by label; the first half is the base classes, with the middle one where their
number is odd, and the others are new. Subsets are drawn from all classes and the new ones left out
then, as CoCoOp's are, so that with one seed the base classes have the images of the few-shot
protocol.
"""

import dataclasses

from safe_jax.data.datasets import Dataset, Transfer
from safe_jax.data.records import Record, Splits
from safe_jax.runtime.errors import InputError

NEW = "new"  # the name of the new classes' images among the transfers of a run


def divide(data: Dataset) -> tuple[Dataset, Transfer]:
    """The data set as if it had the base classes alone, and the test images of the new classes.

    Raises `InputError` where one of them would have no class or no image.
    """
    base_classes = (len(data.classnames) + 1) // 2
    if len(data.classnames) < 2:
        raise InputError(
            f"config.protocol=base_to_new: {data.name} has one class; at least two are expected"
        )
    base = dataclasses.replace(
        data,
        classnames=data.classnames[:base_classes],
        prompts=data.prompts[:base_classes],
        splits=Splits(*(of_base(part, base_classes) for part in data.splits)),
    )
    records = [
        record._replace(label=record.label - base_classes)
        for record in data.splits.test
        if record.label >= base_classes
    ]
    needed = {
        "training image of the base classes": base.splits.train,
        "test image of the base classes": base.splits.test,
        "test image of the new classes": records,
    }
    for images, found in needed.items():
        if not found:
            raise InputError(
                f"config.protocol=base_to_new: {data.name} has no {images}; the base classes are "
                f"{data.classnames[0]} to {data.classnames[base_classes - 1]}, the others are new"
            )
    return base, Transfer(NEW, data.image_dir, [], records, data.prompts[base_classes:])


def of_base(records: list[Record], base_classes: int) -> list[Record]:
    """The records of the base classes."""
    return [record for record in records if record.label < base_classes]
