"""A user's folder: `root/class/image`, or `root/{train,val,test}/class/image`."""

import logging
import re

from safe_jax.data.records import Record, Splits, complete, list_files
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError, listing

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
log = logging.getLogger(__name__)

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(root: paths.Path) -> tuple[Splits, list[str]]:
    """Reads the images below `root`, and draws the splits for which there are no folders.

    Returns the splits and the folders' names by label. Raises `InputError` as `read_parts` does.
    """
    parts, names = read_parts(root)
    return complete(parts, root), names


def read_parts(root: paths.Path) -> tuple[dict[str, list[Record]], list[str]]:
    """The images below `root` as they are divided there: in `train` alone, or in more splits.

    Ignores hidden files and files whose names are not those of images. Classes are numbered in
    natural order ("2" before "10"). Returns the records by split, and the folders' names by label.

    Raises `InputError` where folders, or images in them, are missing.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; config.image_dir is the folder that holds one for each class"
        )
    parts = _find_parts(root)
    names = sorted(parts["train"][0], key=natural)
    _check_classes(root, parts, names)
    records, empty, others = {}, [], 0
    for part, (classes, prefix) in parts.items():
        records[part] = []
        for label, name in enumerate(names):
            listed = list_files(root, prefix + name) if name in classes else []
            files = [file for file in listed if file.lower().endswith(SUFFIXES)]
            others += len(listed) - len(files)
            if not files and (part == "train" or name in classes):
                empty.append(f"{root}/{prefix}{name}")
            records[part] += [Record(file, label, name) for file in files]
    if empty:
        raise InputError(
            f"{len(empty)} class folders hold no image ({', '.join(SUFFIXES)}):" + listing(empty)
        )
    if others:
        log.warning("%s: %d files whose names are not those of images are ignored", root, others)
    return records, names


def _find_parts(root: paths.Path) -> dict[str, tuple[set[str], str]]:
    """The class folders of each split, and the prefix of their paths under `root`."""
    folders = paths.subfolders(root)
    if "train" not in map(str.lower, folders):
        return {"train": (folders, "")}
    parts = {}
    for name in folders:
        if name.lower() not in _PARTS:
            raise InputError(f"{root}: beside train/ only val/ and test/ are expected, not {name}/")
        part = _PARTS[name.lower()]
        if part in parts:
            raise InputError(f"{root}: two folders are for {part}; keep one")
        parts[part] = paths.subfolders(root / name), f"{name}/"
    return parts


def _check_classes(
    root: paths.Path, parts: dict[str, tuple[set[str], str]], names: list[str]
) -> None:
    """Raises `InputError` for too few classes, two of one name, and classes that train lacks."""
    if len(names) < 2:
        raise InputError(
            f"{root}: a folder for each of at least two classes is expected"
            f"{' in train/' if parts['train'][1] else ''}, not {len(names)}"
        )
    spaced = [name.replace("_", " ") for name in names]
    if twice := sorted({name for name in spaced if spaced.count(name) > 1}):
        raise InputError(f"{root}: two folders each are for {', '.join(twice)}; rename one")
    strange = [
        f"{root}/{prefix}{name}"
        for classes, prefix in parts.values()
        for name in sorted(classes - set(names), key=natural)
    ]
    if strange:
        raise InputError(f"{len(strange)} class folders are not in train:" + listing(strange))


def natural(name: str) -> tuple:
    """A key that sorts the numbers in names as numbers."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [int(piece) if piece.isdecimal() else piece for piece in pieces], name
