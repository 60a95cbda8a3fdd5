"""A user's folder: `root/class/image`, or `root/{train,val,test}/class/image`.

A file beside the class folders, `classnames.txt` or `classnames.csv`, may name them otherwise.
"""

import collections
import difflib
import logging
import pathlib
import re
from collections.abc import Collection, Iterable

from safe_jax.data.records import Record, Splits, complete
from safe_jax.runtime import files, paths, schema
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
_NAME_FILES = "classnames.txt", "classnames.csv"
_HEIC = "photos in HEIC have to be converted first, to JPEG for example"


def read(root: paths.Path) -> tuple[Splits, list[str]]:
    """Reads the images below `root`, and draws the splits for which there are no folders.

    Returns the splits and the class names by label. Raises `InputError` as `read_parts` does.
    """
    parts, names = read_parts(root)
    return complete(parts, root), names


def read_parts(root: paths.Path) -> tuple[dict[str, list[Record]], list[str]]:
    """The images below `root` as they are divided there: in `train` alone, or in more splits.

    Ignores hidden files and files whose names are not those of images. Classes are numbered in
    natural order of their folders ("2" before "10"). Returns the records by split, and the class
    names by label: those that `classnames.txt` or `.csv` has, else the folders'.

    Raises `InputError` where folders, or images in them, are missing.
    """
    if not files.exists(root) or not root.is_dir():
        raise InputError(
            f"{root}: no such folder; config.image_dir is the folder that holds one for each class"
        )
    parts = _find_parts(root)
    names = sorted(parts["train"][0], key=natural)
    _check_classes(root, parts, names)
    spoken = _spoken(root, parts, names)
    records, empty, others = {}, [], []
    for part, (classes, prefix) in parts.items():
        records[part] = []
        for label, name in enumerate(names):
            listed = _listed(root, prefix + name) if name in classes else []
            of_class = [file for file in listed if _is_image(file)]
            others += [file for file in listed if not _is_image(file)]
            if not of_class and (part == "train" or name in classes):
                empty.append(f"{root}/{prefix}{name}")
            records[part] += [Record(file, label, spoken[label]) for file in of_class]
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
    return records, spoken


def _spoken(
    root: paths.Path, parts: dict[str, tuple[set[str], str]], names: list[str]
) -> list[str]:
    """The class name of each folder: that of a file of class names, where there is one."""
    beside = dict.fromkeys((root, root / parts["train"][1]))
    found = [place / name for place in beside for name in _NAME_FILES if (place / name).exists()]
    if len(found) > 1:
        raise InputError(f"{' and '.join(map(str, found))}: keep one file of class names")
    if not found:
        _hint_at_numbers(root, names)
        return names
    file = found[0]
    spoken = _read_names(file, names)
    if rest := [name for name in names if name not in spoken]:
        log.warning(
            "%s does not name %d of %d class folders, such as %s: they are called as their folders",
            file, len(rest), len(names), rest[0],
        )  # fmt: skip
    chosen = [spoken.get(name, name) for name in names]
    count = collections.Counter(name.replace("_", " ") for name in chosen)
    if twice := sorted(name for name, n in count.items() if n > 1):
        raise InputError(
            f"{file}: several folders are called {', '.join(twice)}; rename all but one"
        )
    return chosen


def _read_names(file: paths.Path, folders: list[str]) -> dict[str, str]:
    """A file's class names by folder: `folder,name` a line; in a text, a space parts them too."""
    if file.suffix == ".csv":
        rows = files.read_csv(file, "no such file")
    else:
        lines = enumerate(files.read_text(file, "no such file").splitlines(), 1)
        rows = [(n, _folder_and_name(line, folders)) for n, line in lines if line.strip()]
    if rows and list(map(str.strip, rows[0][1])) == ["folder", "name"]:
        rows = rows[1:]
    found: dict[str, str] = {}
    for number, values in rows:
        folder, *rest = map(str.strip, values)
        where = f"{file}, line {number}"
        try:
            name = schema.check(tuple[schema.Name], tuple(rest), where)[0]
        except InputError:
            raise InputError(
                f"{where}: a folder and its class name are expected, not {values}"
            ) from None
        if folder not in folders:
            near = difflib.get_close_matches(folder, folders, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"{where}: there is no class folder {folder!r}{hint}")
        if folder in found:
            raise InputError(f"{where}: the folder {folder} is there twice; keep one line")
        found[folder] = name
    return found


def _folder_and_name(line: str, folders: Collection[str]) -> list[str]:
    """A line divided after the longest folder that begins it: folders may have spaces in them."""
    line = line.strip()
    begin = [folder for folder in folders if re.match(rf"{re.escape(folder)}[\s,]", line)]
    if not begin:
        return re.split(r"\t|,|\s", line, maxsplit=1)
    folder = max(begin, key=len)
    return [folder, re.sub(r"^\s*,?", "", line.removeprefix(folder))]


def _hint_at_numbers(root: paths.Path, names: list[str]) -> None:
    """Says how to name classes whose folders are numbers, or begin with them."""
    numbered = [name for name in names if re.match(r"(\d+([\W_]|$)|n\d{8}$)", name)]
    if 2 * len(numbered) > len(names):
        log.warning(
            "%s: the names of %d of %d class folders begin with numbers, and prompts will say so "
            "('a photo of a %s.'): name them in %s, `folder name` a line",
            root, len(numbered), len(names), numbered[0].replace("_", " "), root / "classnames.txt",
        )  # fmt: skip


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
