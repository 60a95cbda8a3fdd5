"""Listings to records: CoOp's split files, FGVC-Aircraft's lists; splits that are drawn."""

import concurrent.futures
import itertools
import json
import logging
import random
from typing import NamedTuple

import tqdm

from safe_jax.data import images
from safe_jax.runtime import hosts, paths
from safe_jax.runtime.errors import InputError, listing

log = logging.getLogger(__name__)

# Of a class, where a data set comes without these splits.
VAL_PART = 0.2
TEST_PART = 0.3


class Record(NamedTuple):
    """An image: its path under the data set's image folder, and its class. A split file's row."""

    path: str
    label: int
    classname: str


class Splits(NamedTuple):
    train: list[Record]
    val: list[Record]
    test: list[Record]


def read_split_file(path) -> tuple[Splits, dict[str, list[float]]]:
    """A split file in CoOp's format: JSON of `train`, `val` and `test`, rows `[path, label, name]`.

    It may have `boxes` beside: by path where the labelled object is, `[left, top, right, bottom]`
    in pixels. Returns the splits and the boxes.

    Raises `InputError` where the file is absent or says something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such split file; point config.data_root at the folder that holds it"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not {"train", "val", "test"} <= content.keys():
        raise InputError(f"{path}: an object with the keys train, val and test is expected")
    try:
        splits = Splits(
            *(
                [Record(str(p), int(label), str(name)) for p, label, name in content[part]]
                for part in Splits._fields
            )
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: rows of [image path, label from 0, class name] are expected ({error})"
        ) from error
    if not splits.train or not splits.test:
        raise InputError(f"{path}: train and test must not be empty")
    boxes = content.get("boxes", {})
    if not isinstance(boxes, dict) or not all(map(_is_box, boxes.values())):
        raise InputError(
            f"{path}: boxes by image path are expected, each [left, top, right, bottom] in pixels"
        )
    return splits, boxes


def _is_box(box):
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        return False
    return left < right and top < bottom


def read_aircraft(folder) -> tuple[Splits, list[str]]:
    """FGVC-Aircraft's own lists: `variants.txt`, and `images_variant_{train,val,test}.txt`.

    A line of a list is `NUMBER VARIANT`; the image is `NUMBER.jpg`. Labels follow `variants.txt`,
    as CoOp's do. Returns the splits and the class names by label.
    """
    names = ("variants", *(f"images_variant_{part}" for part in Splits._fields))
    files = [folder / f"{name}.txt" for name in names]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise InputError(
            f"{len(absent)} lists of FGVC-Aircraft are missing; they lie in data/ of its archive:"
            + listing(absent)
        )
    variants, *lists = [file.read_text(encoding="utf-8").splitlines() for file in files]
    variants = [line.strip() for line in variants if line.strip()]
    label = {variant: n for n, variant in enumerate(variants)}
    splits = Splits([], [], [])
    for file, lines, records in zip(files[1:], lists, splits, strict=True):
        for number, line in enumerate(lines, 1):
            image, _, variant = line.strip().partition(" ")
            if variant not in label:
                raise InputError(
                    f"{file}, line {number}: an image's number and a variant of variants.txt are "
                    f"expected, not {line!r}"
                )
            records.append(Record(f"{image}.jpg", label[variant], variant))
    return splits, variants


def list_files(image_dir, folder: str) -> list[str]:
    """The files in a folder under `image_dir`, sorted, but for hidden ones."""
    return [f"{folder}/{name}" for name in paths.names(image_dir / folder)]


def complete(parts: dict[str, list[Record]], where) -> Splits:
    """Draws the splits that a data set does not come with, class by class, always the same.

    From `train` alone 30 % are drawn for test and 20 % for val, as CoOp divides Caltech-101. From
    `train` and `test` 20 % of train for val. `train` and `val` without a test split: val is what
    results are reported on, so it is the test split, and a val split is drawn from train.

    Raises `InputError` where a class has not an image for each.
    """
    val, test = parts.get("val"), parts.get("test")
    if val and test:
        return Splits(parts["train"], val, test)
    if val:
        log.info(
            "%s has no test split: val is for test, and another val is drawn from train", where
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


def check_files(files: list, workers: int) -> None:
    """Raises `InputError` naming every file that is missing or cannot be decoded."""
    own = files[hosts.index() :: hosts.count()]  # each host looks at a part of them
    bad = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(images.why_unreadable, own)
        quiet = not (own and hosts.is_first())
        counted = tqdm.tqdm(reasons, "files", len(own), unit=" images", disable=quiet)
        for file, reason in zip(own, counted, strict=True):
            if reason:
                bad.append(f"{file}: {reason}")
    if bad := sorted(itertools.chain.from_iterable(hosts.from_all(bad))):
        raise InputError(
            f"{len(bad)} of {len(files)} images cannot be used; restore them, or check "
            "config.data_root:" + listing(bad)
        )
