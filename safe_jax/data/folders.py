"""A user's folder: `root/class/image`, or `root/{train,val,test}/class/image`."""

import collections
import logging
import pathlib
import re
from collections.abc import Iterable

from safe_jax.data.records import Record, Splits, complete
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError, listing

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
log = logging.getLogger(__name__)

_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_HEIC = "photos in HEIC have to be converted first, to JPEG for example"


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
    records, empty, others = {}, [], []
    for part, (classes, prefix) in parts.items():
        records[part] = []
        for label, name in enumerate(names):
            listed = _listed(root, prefix + name) if name in classes else []
            files = [file for file in listed if _is_image(file)]
            others += [file for file in listed if not _is_image(file)]
            if not files and (part == "train" or name in classes):
                empty.append(f"{root}/{prefix}{name}")
            records[part] += [Record(file, label, name) for file in files]
    if empty:
        raise InputError(
            f"{len(empty)} class folders hold no image ({', '.join(SUFFIXES)})"
            f"{_hint_of(others)}:" + listing(empty)
        )
    deeper = [r.path for part in records.values() for r in part if _is_deeper(r, parts)]
    if deeper:
        log.warning(
            "%s: %d images lie in folders below those of their classes, such as %s: they count",
            root, len(deeper), deeper[0],
        )  # fmt: skip
    loose = [name for name in paths.names(root) if _is_image(name) and not (root / name).is_dir()]
    if loose:
        log.warning("%s: %d images lie in no class folder and are ignored", root, len(loose))
    if others:
        log.warning(
            "%s: %d files whose names are not those of images are ignored%s",
            root, len(others), _hint_of(others),
        )  # fmt: skip
    return records, names


def _is_deeper(record: Record, parts: dict[str, tuple[set[str], str]]) -> bool:
    """Whether an image lies in a folder below that of its class."""
    divided = any(prefix for _, prefix in parts.values())
    return record.path.count("/") > 1 + divided


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _listed(root: paths.Path, folder: str) -> list[str]:
    """The files of a class, also those in folders below its own, as paths under `root`."""
    return [f"{folder}/{name}" for name in paths.files_below(root / folder)]


def _hint_of(others: Iterable[str]) -> str:
    """What else was found, by suffix; HEIC, which phones write, is what it mostly is."""
    suffixes = collections.Counter(pathlib.PurePath(name).suffix.lower() for name in others)
    if not suffixes:
        return ""
    counts = ", ".join(f"{n} x {s or 'no suffix'}" for s, n in suffixes.most_common(3))
    is_heic = {".heic", ".heif"} & suffixes.keys()
    return f" (there are {counts}{'; ' + _HEIC if is_heic else ''})"


def _part_of(folder: str) -> str | None:
    """The split that a folder's name means: `train`, `Training_Set`, `val` and so on."""
    plain = re.sub(r"[\W_]+", "", folder.casefold())
    return _PARTS.get(plain.removesuffix("set"))


def _find_parts(root: paths.Path) -> dict[str, tuple[set[str], str]]:
    """The class folders of each split, and the prefix of their paths under `root`.

    A folder called `train` that holds images, and no folders, is that of a class.
    """
    folders = paths.subfolders(root)
    inside = {name: paths.subfolders(root / name) for name in folders if _part_of(name)}
    if not any(_part_of(name) == "train" and classes for name, classes in inside.items()):
        return {"train": (folders, "")}
    parts: dict[str, tuple[set[str], str]] = {}
    for name in sorted(folders):
        part = _part_of(name)
        if part is None:
            raise InputError(
                f"{root}: train/ holds class folders and so is a split; beside it only val/ and "
                f"test/ are expected, not {name}/"
            )
        if part in parts:
            raise InputError(f"{root}: two folders are for {part}; keep one")
        if not inside[name]:
            count = sum(map(_is_image, paths.names(root / name)))
            raise InputError(
                f"{root}/{name} holds {count} images but no class folders: sort them into one "
                "folder for each class, as in train/, or take the folder away"
            )
        parts[part] = inside[name], f"{name}/"
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
    if odd := [ascii(name) for name in names if not _is_utf8(name)]:
        raise InputError(
            f"{root}: the names of {len(odd)} class folders are not UTF-8; rename them:"
            + listing(odd)
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


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def natural(name: str) -> tuple:
    """A key that sorts the numbers in names as numbers."""
    pieces = re.split(r"(\d+)", name.casefold())
    return [int(piece) if piece.isdecimal() else piece for piece in pieces], name
