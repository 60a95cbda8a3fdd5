"""ImageNet and its variants in CoOp's layout.

The package contains the names of the 1000 classes that CLIP, CoOp and Tip-Adapter use. A class's
label is the rank of its WordNet id, as in all copies of ImageNet.
"""

import difflib
import functools
import importlib.resources
import logging
import random

from safe_jax.data.records import Record, Splits, list_files
from safe_jax.runtime import files, paths
from safe_jax.runtime.errors import InputError, listing

VAL_PER_CLASS = 50

log = logging.getLogger(__name__)


@functools.cache
def benchmark_classes() -> dict[str, str]:
    """The 1000 class names by WordNet id, in the order of labels."""
    file = importlib.resources.files("safe_jax.data") / "imagenet_classes.txt"
    return dict(line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines())


def read_classes(image_dir: paths.Path) -> dict[str, str]:
    """Class names by WordNet id, in the order of labels.

    If CoOp's `classnames.txt` is beside `image_dir`, it may list a part of the classes or give them
    other names; otherwise they are the benchmark's 1000.
    """
    file = image_dir.parent / "classnames.txt"
    if not file.exists():
        return benchmark_classes()
    names = {}
    for number, line in enumerate(files.read_text(file, "no such file").splitlines(), 1):
        wnid, *rest = line.split(maxsplit=1)[:2] or [""]
        if not wnid:
            continue
        if not rest or wnid in names:
            what = "twice" if wnid in names else "without a name"
            raise InputError(f"{file}, line {number}: {wnid} is there {what}; `wnid name` expected")
        names[wnid] = rest[0].strip()
    if not names:
        raise InputError(f"{file}: a line `wnid name` for each class is expected")
    known = benchmark_classes()
    if other := [wnid for wnid in names.keys() & known if names[wnid] != known[wnid]]:
        log.warning(
            "%s has other names than the benchmark for %d classes, such as %s: its names are used",
            file, len(other), other[0],
        )  # fmt: skip
    return {wnid: names[wnid] for wnid in sorted(names)}


def read(image_dir: paths.Path) -> tuple[Splits, list[str]]:
    """Reads ImageNet: `{train,val}/wnid/*` under `image_dir`, and its classes.

    ImageNet's own validation images are the test split here, so a validation split is drawn from
    train: 50 images a class, or a tenth of a class if a copy has fewer than 500 images of it. The
    draw is always the same, as files are sorted by name. (CoOp's subset follows the order of the
    file system instead, which cannot be repeated.)

    Returns the splits and the class names by label. Raises `InputError` listing missing folders.
    """
    names = read_classes(image_dir)
    parts = ("train", "val")
    there = {
        part: paths.subfolders(image_dir / part) if (image_dir / part).is_dir() else set()
        for part in parts
    }
    for part in parts:
        if (image_dir / part).is_dir() and not there[part]:
            count = len(paths.names(image_dir / part))
            raise InputError(
                f"{image_dir / part} holds {count} files but no class folders: sort them into "
                "folders by WordNet id, as the script valprep.sh that goes round does"
            )
    folders = [(part, wnid) for part in parts for wnid in names]
    if absent := [
        f"{image_dir}/{part}/{wnid}" for part, wnid in folders if wnid not in there[part]
    ]:
        file = image_dir.parent / "classnames.txt"
        hint = "" if file.exists() else f"; to use a part of them list it in {file}, `wnid name`"
        raise InputError(
            f"{len(absent)} of {len(folders)} class folders are missing{hint}:" + listing(absent)
        )
    listed = paths.map_files(
        lambda folder: list_files(image_dir, "/".join(folder)), folders, paths.is_remote(image_dir)
    )
    if empty := [
        f"{image_dir}/{part}/{wnid}"
        for (part, wnid), of_class in zip(folders, listed, strict=True)
        if not of_class
    ]:
        raise InputError(f"{len(empty)} class folders hold no image:" + listing(empty))
    labels = {wnid: label for label, wnid in enumerate(names)}
    records = {part: [] for part in parts}
    for (part, wnid), of_class in zip(folders, listed, strict=True):
        records[part] += [Record(file, labels[wnid], names[wnid]) for file in of_class]
    train, test = records.values()
    return Splits(*hold_out(train), test), list(names.values())


def hold_out(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Divides training images, given class by class, into training and validation images."""
    rng = random.Random(0)
    by_label = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    held_out = set()
    for items in by_label.values():
        held_out.update(rng.sample(items, min(VAL_PER_CLASS, len(items) // 10)))
    return [r for r in records if r not in held_out], [r for r in records if r in held_out]


def read_variant(
    image_dir: paths.Path, classes: dict[str, str], whole: bool
) -> tuple[list[Record], list[int]]:
    """Reads a variant of ImageNet: a folder for each class.

    Folders are named by WordNet ids, or by the benchmark's labels as in ImageNet-V2.

    Args:
        classes: the classes of ImageNet itself, as from `read_classes`.
        whole: whether the variant must have all of them.

    Returns the records, and the labels in ImageNet of the classes that the variant has. A record's
    label is the place of its class among these. Raises `InputError` naming folders that are missing
    or are no class of ImageNet.
    """
    if not image_dir.is_dir():
        raise InputError(f"{image_dir}: no such folder; it holds a folder for each class")
    ids = {str(label): wnid for label, wnid in enumerate(benchmark_classes())}
    folders = {ids.get(folder, folder): folder for folder in paths.subfolders(image_dir)}
    known = benchmark_classes().keys() | classes.keys()
    if strange := sorted(folders.keys() - known):
        near = difflib.get_close_matches(strange[0], known, n=1)
        raise InputError(
            f"{image_dir}: {len(strange)} folders are no class of ImageNet"
            + (f" (is {strange[0]} meant to be {near[0]}?)" if near else "")
            + ":" + listing(strange)
        )  # fmt: skip
    labels = [label for label, wnid in enumerate(classes) if wnid in folders]
    absent = [wnid for wnid in classes if wnid not in folders]
    if not labels or (whole and absent):
        raise InputError(f"{image_dir}: {len(absent)} class folders are missing:" + listing(absent))
    wnids = list(classes)
    records = [
        Record(path, rank, classes[wnids[label]])
        for rank, label in enumerate(labels)
        for path in list_files(image_dir, folders[wnids[label]])
    ]
    return records, labels
