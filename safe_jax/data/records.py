"""Records of images from CoOp's split files and FGVC-Aircraft's lists; draws missing splits."""

import logging
import random
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import pydantic
from pydantic import AfterValidator, Field

from safe_jax.data import places
from safe_jax.runtime import files, paths, schema
from safe_jax.runtime.errors import InputError, listing
from safe_jax.runtime.paths import Path
from safe_jax.runtime.schema import Count, Name, Text

log = logging.getLogger(__name__)

# Share of a class's images that is drawn where a data set comes without these splits.
VAL_PART = 0.2
TEST_PART = 0.3


class Record(NamedTuple):
    """An image's path under the data set's image folder, its label from 0, and its class name."""

    path: str
    label: int
    classname: str


class Splits(NamedTuple):
    """The records to tune with, to choose with, and to report results on."""

    train: list[Record]
    val: list[Record]
    test: list[Record]


Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Boxes = dict[str, Box]  # by image path


# By which a box may overshoot its image: some programs count pixels from 1.
BOX_MARGIN = 1


def _ordered(box: Box) -> Box:
    left, top, right, bottom = box
    if not (-BOX_MARGIN <= left < right and -BOX_MARGIN <= top < bottom):
        raise ValueError(
            "[left, top, right, bottom] with 0 <= left < right, 0 <= top < bottom is expected"
        )
    return box


_Row = tuple[Name, Count, Name]  # image path, label, class name


class _SplitFile(schema.Model):
    model_config = pydantic.ConfigDict(extra="ignore")

    train: Annotated[list[_Row], Field(min_length=1)]
    val: list[_Row]
    test: Annotated[list[_Row], Field(min_length=1)]
    boxes: dict[Text, Annotated[Box, AfterValidator(_ordered)]] = Field({})


def read_split_file(path: Path, image_dir: Path) -> tuple[Splits, Boxes]:
    """Reads a split file in CoOp's format: JSON with rows `[path, label, name]` of each split.

    The keys are `train`, `val` and `test`. There may also be `boxes`: by an image's path,
    `[left, top, right, bottom]` of the labelled object in pixels. Other keys are ignored. Paths are
    under `image_dir`, as `places.under` takes them. Returns the splits and the boxes. Raises
    `InputError` if the file is missing or malformed.
    """
    content = files.read(path, "no such split file; point config.data_root at its folder")
    read = schema.read_json(_SplitFile, content, f"{path}: ", by_hand=True)
    rows = [getattr(read, part) for part in Splits._fields]
    named = [row[0] for part in rows for row in part]
    placed = places.under(image_dir, [*named, *read.boxes], path)
    splits = Splits(*([Record(placed[name], n, c) for name, n, c in part] for part in rows))
    return splits, {placed[name]: box for name, box in read.boxes.items()}


def read_aircraft(image_dir: Path) -> tuple[Splits, list[str]]:
    """Reads FGVC-Aircraft's lists beside its images, `images_variant_{train,val,test}.txt`.

    A line is `NUMBER VARIANT`; the image is `NUMBER.jpg`. Labels follow the order of
    `variants.txt`, as CoOp's do. Returns the splits and the class names by label. Raises
    `InputError` if a list is missing or names an unknown variant.
    """
    names = ("variants", *(f"images_variant_{part}" for part in Splits._fields))
    lists = [image_dir.parent / f"{name}.txt" for name in names]
    if absent := [str(file) for file in lists if not file.exists()]:
        raise InputError(
            f"{len(absent)} lists of FGVC-Aircraft are missing; they are in data/ of its archive:"
            + listing(absent)
        )
    variants, *lines_of = [files.read_text(file, "no such file").splitlines() for file in lists]
    variants = [line.strip() for line in variants if line.strip()]
    label = {variant: n for n, variant in enumerate(variants)}
    splits = Splits([], [], [])
    for file, lines, records in zip(lists[1:], lines_of, splits, strict=True):
        for number, line in enumerate(lines, 1):
            image, _, variant = line.strip().partition(" ")
            if variant not in label or not image.isalnum():
                raise InputError(
                    f"{file}, line {number}: an image's number and a variant of variants.txt are "
                    f"expected, not {schema.shown(line)}"
                )
            records.append(Record(f"{image}.jpg", label[variant], variant))
    return splits, variants


def list_files(image_dir: Path, folder: str) -> list[str]:
    """The files in a folder under `image_dir`, sorted, without hidden files."""
    return [f"{folder}/{name}" for name in paths.names(image_dir / folder)]


def complete(parts: dict[str, list[Record]], where: object) -> Splits:
    """Draws the splits that a data set lacks from its train split, always in the same way.

    From each class, 20 % are drawn for val, and 30 % for test, as CoOp divides Caltech-101. If
    there is a val split but no test split, results are expected on val: it becomes the test split,
    and another val split is drawn.

    Args:
        parts: the records of the splits that there are; train must be among them.
        where: names the data set in messages.

    Raises `InputError` if a class has too few images to give each split one.
    """
    val, test = parts.get("val"), parts.get("test")
    if val and test:
        return Splits(parts["train"], val, test)
    if val:
        log.info(
            "%s has no test split: val is used for test, and another val is drawn from train", where
        )
        test = val
    drawn = Splits([], [], test or [])
    by_label = {}
    for record in parts["train"]:
        by_label.setdefault(record.label, []).append(record)
    needed = 2 if test else 3
    if few := [items[0].classname for items in by_label.values() if len(items) < needed]:
        raise InputError(
            f"{where}: {len(few)} classes have fewer than {needed} images to draw splits from, "
            f"one for each of train, val{'' if test else ' and test'}:" + listing(few)
        )
    rng = random.Random(0)
    for _, items in sorted(by_label.items()):
        shuffled = rng.sample(items, len(items))
        n_val = max(1, round(VAL_PART * len(items)))
        n_test = 0 if test else max(1, round(TEST_PART * len(items)))
        drawn.val.extend(sorted(shuffled[:n_val]))
        drawn.test.extend(sorted(shuffled[n_val : n_val + n_test]))
        drawn.train.extend(sorted(shuffled[n_val + n_test :]))
    return drawn


def hold_out_val(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Draws 20 % of each class's images to validate with, at least one; gives train and val.

    The draw is always the same. A class with a single image trains only.
    """
    by_label: dict[int, list[Record]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    rng = random.Random(0)
    train, val = [], []
    for _, items in sorted(by_label.items()):
        shuffled = rng.sample(items, len(items))
        n_val = max(1, round(VAL_PART * len(items))) if len(items) > 1 else 0
        val += sorted(shuffled[:n_val])
        train += sorted(shuffled[n_val:])
    return train, val
