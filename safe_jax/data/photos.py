"""Labelled images as a user has them: a folder, a CSV file, a split file, or Python lists.

What is read here is not divided any further: whoever fits a classifier draws validation images, and
whoever evaluates one takes the images that were set aside for it.
"""

import collections
import concurrent.futures
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from safe_jax.data import datasets, folders, places, readable
from safe_jax.data.openable import InMemory, Openable
from safe_jax.data.records import Record, read_split_file
from safe_jax.runtime import files, paths, schema
from safe_jax.runtime.errors import InputError, listing
from safe_jax.runtime.paths import Path

log = logging.getLogger(__name__)

_DIGITS = 32  # of a digest, in hexadecimal


class Photos(NamedTuple):
    """Labelled images, in `train` alone or also in `val` and `test`, as they were divided.

    `image_dir / record.path` opens an image; `classes` are names by label.
    """

    name: str
    image_dir: Any
    parts: dict[str, list[Record]]
    classes: list[str]

    @property
    def records(self) -> list[Record]:
        return [record for part in self.parts.values() for record in part]


class Sources:
    """Images by name in place of a folder, wherever each of them is: in a file or in memory."""

    def __init__(self, by_name: Mapping[str, Openable]):
        self._by_name = by_name

    def __truediv__(self, name: str) -> Openable:
        return self._by_name[name]

    def resolve(self) -> "Sources":
        return self

    def __str__(self) -> str:
        return "images of a Python program"


def read(photos: Path, image_dir: Path | None = None) -> Photos:
    """The labelled images that `photos` names.

    Args:
        photos: a folder with a folder for each class, or such folders in `train`, `val` and `test`;
            a CSV file with the columns `path` and `label`, and perhaps `split`; or a split file.
        image_dir: what the paths of a file are under; by default the file's folder.

    Raises `InputError` for whatever cannot be read so.
    """
    if not files.exists(photos):
        raise InputError(
            f"{photos}: no such file or folder; expected is a folder with a folder for each class, "
            "a CSV file (path,label) or a split file (.json)"
        )
    if photos.is_dir():
        if image_dir:
            raise InputError(f"--image-dir is for lists; {photos} is itself a folder of images")
        parts, classes = folders.read_parts(photos)
        return Photos(_utf8(paths.absolute(photos).name), photos, parts, classes)
    image_dir = image_dir or photos.parent
    if not files.exists(image_dir) or not image_dir.is_dir():
        raise InputError(f"--image-dir={image_dir}: no such folder")
    if photos.suffix.lower() == ".json":
        splits, _ = read_split_file(photos, image_dir)
        parts = {name: part for name, part in splits._asdict().items() if part}
        classes = datasets.classnames_of(splits, photos)
        _check_spellings(classes, f"{photos}: ")
        return Photos(_utf8(photos.stem), image_dir, parts, classes)
    if photos.suffix.lower() != ".csv":
        raise InputError(f"{photos}: a folder, a .csv or a .json file is expected")
    return _read_csv(photos, image_dir)


def _utf8(name: str) -> str:
    """A file's name without bytes that are no UTF-8: it is kept with the classifier."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_csv(file: Path, image_dir: Path) -> Photos:
    named = _rows_of(file)
    if not named:
        raise InputError(f"{file} lists no image")
    if twice := places.twice([path for path, *_ in named]):
        raise InputError(f"{file} lists {len(twice)} images more than once:" + listing(twice))
    placed = places.under(image_dir, [path for path, *_ in named], file)
    _as_names((label for _, label, _ in named), f"{file}: ")
    classes = sorted({label for _, label, _ in named}, key=folders.natural)
    _check_spellings(classes, f"{file}: ")
    number_of = {name: number for number, name in enumerate(classes)}
    parts: dict[str, list[Record]] = {}
    for path, label, split in named:
        parts.setdefault(split, []).append(Record(placed[path], number_of[label], label))
    return Photos(_utf8(file.stem), image_dir, parts, classes)


def _rows_of(file: Path) -> list[tuple[str, str, str]]:
    """Path, label and split of each line of a CSV file."""
    rows = files.read_csv(file, "no such file")
    columns = [name.strip() for name in rows[0][1]] if rows else []
    if absent := [name for name in ("path", "label") if name not in columns]:
        raise InputError(
            f"{file}: its first line must name the columns path and label (and may name others); "
            f"missing: {', '.join(absent)}"
        )
    if twice := [name for name in ("path", "label", "split") if columns.count(name) > 1]:
        raise InputError(f"{file}: its first line names {', '.join(twice)} twice")
    named = []
    for number, values in rows[1:]:
        if any(values[len(columns) :]):
            raise InputError(
                f"{file}, line {number}: more values than columns: put quotes around a value with "
                "a comma in it"
            )
        line = dict(zip(columns, map(str.strip, values), strict=False))
        path, label = line.get("path"), line.get("label")
        split = line.get("split") or "train"
        if not path or not label:
            empty = "label" if path else "path"
            raise InputError(f"{file}, line {number}: the {empty} is empty")
        if split not in ("train", "val", "test"):
            raise InputError(f"{file}, line {number}: split={split}: train, val or test expected")
        named.append((path, label, split))
    return named


def of_lists(sources: Iterable[Any], labels: Iterable[Any]) -> Photos:
    """Images and their class names: paths, Pillow images or uint8 arrays, one label for each.

    An image that is there twice with the same label counts once. Raises `InputError` where images
    and labels do not fit together, or are of other types.
    """
    named = [as_source(source) for source in sources]
    texts = _as_names(labels, "")
    if len(named) != len(texts):
        raise InputError(f"a label for each image is expected: {len(named)} and {len(texts)}")
    classes = sorted(set(texts))
    _check_spellings(classes, "")
    number_of = {name: number for number, name in enumerate(classes)}
    records: dict[str, Record] = {}
    for (name, _), text in zip(named, texts, strict=True):
        record = records.setdefault(name, Record(name, number_of[text], text))
        if record.classname != text:
            raise InputError(f"{name} is labelled both {record.classname!r} and {text!r}")
    return Photos("photos", Sources(dict(named)), {"train": list(records.values())}, classes)


def _check_spellings(classes: Sequence[str], prefix: str) -> None:
    """Raises `InputError` for names that have the same prompts, as underscores become spaces."""
    count = collections.Counter(name.replace("_", " ") for name in classes)
    if twice := [name for name in classes if count[name.replace("_", " ")] > 1]:
        raise InputError(f"{prefix}a class is spelled in several ways: {', '.join(twice)}")


def _as_names(labels: Iterable[Any], prefix: str) -> list[str]:
    # NumPy's texts are not strictly texts.
    names = [str(label) if isinstance(label, str) else label for label in labels]
    try:
        return schema.check(list[schema.Name], names, prefix)
    except InputError:
        strange = next(name for name in names if not _is_name(name))
    raise InputError(
        f"{prefix}label {strange!r}: a class name is expected, as prompts are made of it"
    )


def _is_name(name: Any) -> bool:
    try:
        schema.check(list[schema.Name], [name], "")
    except InputError:
        return False
    return True


def as_source(image: Any) -> tuple[str, Openable]:
    """An image's name, and what opens it: of a path, a Pillow image or a uint8 array.

    The name of an image in memory is a digest of its pixels. Raises `InputError` for other things.
    """
    if isinstance(image, str | os.PathLike):
        path = paths.absolute(paths.parse(os.fspath(image)))
        return str(path), path
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in (
            (), (3,), (4,),
        ):  # fmt: skip
            raise InputError(
                f"an array of {image.dtype} {image.shape}: uint8 is expected, (height, width), "
                "(height, width, 3) or (height, width, 4)"
            )
        image = PIL.Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, PIL.Image.Image):
        raise InputError(
            f"{type(image).__name__}: an image is expected as a path, a Pillow image or an array"
        )
    sha = hashlib.sha256(f"{image.mode} {image.size}".encode())
    sha.update(image.tobytes())
    sha.update(bytes(image.getpalette() or ()))
    name = f"memory/{sha.hexdigest()[:_DIGITS]}"
    return name, InMemory(image, name)


class Examined(NamedTuple):
    """Images that can be used, and a digest of the bytes of each by its path."""

    photos: Photos
    digests: dict[str, str]


def examine(photos: Photos, unreadable: readable.Unreadable, workers: int) -> Examined:
    """Reads every image: those that cannot be used are left out, or refused."""
    parts, _ = readable.leave_out(photos.parts, photos.image_dir, unreadable, workers)
    kept = photos._replace(parts=parts)
    paths = [record.path for record in kept.records]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda path: digest(photos.image_dir / path), paths)
        return Examined(kept, dict(zip(paths, found, strict=True)))


def digest(source: Openable) -> str:
    """Identifies an image by the bytes of its file, wherever that is."""
    if isinstance(source, InMemory):
        return source.name.rpartition("/")[2]
    with files.opened(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def without_copies(photos: Photos, digests: Mapping[str, str]) -> Photos:
    """The same with every picture on one side: copies of train images leave val, with a warning.

    Copies have the same bytes. Raises `InputError` for copies with different labels.
    """
    labels: dict[str, Record] = {}
    for record in photos.records:
        first = labels.setdefault(digests[record.path], record)
        if first.classname != record.classname:
            raise InputError(
                f"{first.path} and {record.path} are the same picture, labelled "
                f"{first.classname!r} and {record.classname!r}: remove one"
            )
    parts = dict(photos.parts)
    in_train = {digests[record.path] for record in parts.get("train", [])}
    val = parts.get("val", [])
    kept = [record for record in val if digests[record.path] not in in_train]
    if len(kept) < len(val):
        log.warning(
            "%d of %d validation images are copies of training images (same bytes): they train, "
            "and are left out of validation",
            len(val) - len(kept), len(val),
        )  # fmt: skip
        parts["val"] = kept
    return photos._replace(parts=parts)


def to_evaluate(photos: Photos) -> tuple[str, Sequence[Record]]:
    """The images to evaluate on, and their name: `test` if there are any, else `val`, else all."""
    for part in ("test", "val"):
        if photos.parts.get(part):
            return part, photos.parts[part]
    return "all", photos.records
