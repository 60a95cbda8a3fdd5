"""Files on disk to records: CoOp's split files and ImageNet's folders."""

import concurrent.futures
import json
import os
import pathlib
import random
from typing import NamedTuple

import tqdm

from safe_jax.data import images
from safe_jax.errors import InputError, listing

IMAGENET_VAL_PER_CLASS = 50


class Record(NamedTuple):
    """An image: its path under the data set's image folder, and its class. A split file's row."""

    path: str
    label: int
    classname: str


class Splits(NamedTuple):
    train: list[Record]
    val: list[Record]
    test: list[Record]


def read_split_file(path: pathlib.Path) -> tuple[Splits, dict[str, list[float]]]:
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


def read_imagenet(image_dir: pathlib.Path) -> tuple[Splits, list[str]]:
    """ImageNet in CoOp's layout: `{train,val}/wnid/*`, and `classnames.txt` beside `image_dir`.

    ImageNet's own validation images are the test split here, so a validation split is drawn from
    train: 50 images a class (a tenth of the smaller classes of a partial copy), the same ones
    always. Files are sorted by name; CoOp's own subset follows the file system's order instead,
    which nobody can repeat.

    Returns the splits and the class names by label. Raises `InputError` listing what is missing.
    """
    names_file = image_dir.parent / "classnames.txt"
    try:
        lines = names_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{names_file}: no such file; it holds a line `wnid name` for each class (CoOp's "
            "classnames.txt), and config.data_root is the folder above imagenet/"
        ) from None
    names = dict(line.strip().split(" ", 1) for line in lines if " " in line.strip())
    folders = [image_dir / part / wnid for part in ("train", "val") for wnid in names]
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise InputError(
            f"{len(absent)} of {len(folders)} class folders are missing:" + listing(absent)
        )
    splits = Splits([], [], [])
    rng = random.Random(0)
    for label, wnid in enumerate(sorted(names)):
        train = [Record(path, label, names[wnid]) for path in _listing(image_dir, f"train/{wnid}")]
        held_out = set(rng.sample(train, min(IMAGENET_VAL_PER_CLASS, len(train) // 10)))
        splits.train.extend(record for record in train if record not in held_out)
        splits.val.extend(record for record in train if record in held_out)
        splits.test.extend(
            Record(path, label, names[wnid]) for path in _listing(image_dir, f"val/{wnid}")
        )
    return splits, [names[wnid] for wnid in sorted(names)]


def _listing(image_dir, folder):
    with os.scandir(image_dir / folder) as entries:
        return sorted(f"{folder}/{e.name}" for e in entries if not e.name.startswith("."))


def check_files(paths: list[pathlib.Path], workers: int) -> None:
    """Raises `InputError` naming every file that is missing or cannot be decoded."""
    bad = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(images.why_unreadable, paths)
        counted = tqdm.tqdm(reasons, "files", len(paths), unit=" images", disable=not paths)
        for path, reason in zip(paths, counted, strict=True):
            if reason:
                bad.append(f"{path}: {reason}")
    if bad:
        raise InputError(
            f"{len(bad)} of {len(paths)} images cannot be used; restore them, or check "
            "config.data_root:" + listing(bad)
        )
