"""Images whose files are the same byte for byte, whatever they are called."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safe_jax.data.photos import digest
from safe_jax.data.records import Record
from safe_jax.runtime import files
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

_END = 4096  # bytes at a file's end, which differ between almost all images


def warn(parts: Mapping[str, Sequence[Record]], image_dir: Any, classes: Sequence[str]) -> None:
    """Warns of copies between `train`, `val` and `eval`, and of copies with several labels.

    Only files of equal size on a disk are read. Images of one path are told of where a data set is
    read.
    """
    groups = same_bytes(image_dir, {r.path for part in parts.values() for r in part})
    copy_of = {path: number for number, group in enumerate(groups) for path in group}
    if not copy_of:
        return
    of_part = {
        name: {r.path: copy_of[r.path] for r in part if r.path in copy_of}
        for name, part in parts.items()
    }
    train, val, evaluated = (of_part[name] for name in ("train", "val", "eval"))
    chosen_on = {**train, **val}
    copied, copied_in_train = set(chosen_on.values()), set(train.values())
    leaks = [path for path, n in evaluated.items() if n in copied and path not in chosen_on]
    if leaks:
        log.warning(
            "%d images to evaluate on are byte for byte images to tune or to choose with, such as "
            "%s: accuracies will be too high",
            len(leaks), leaks[0],
        )  # fmt: skip
    if leaks := [path for path, n in val.items() if n in copied_in_train and path not in train]:
        log.warning(
            "%d validation images are byte for byte training images, such as %s: what validation "
            "chooses will suit these",
            len(leaks), leaks[0],
        )  # fmt: skip
    _warn_of_two_labels(groups, [r for part in parts.values() for r in part], classes)


def _warn_of_two_labels(
    groups: Sequence[Sequence[str]], records: Iterable[Record], classes: Sequence[str]
) -> None:
    label = {record.path: record.label for record in records}
    several = [group for group in groups if len({label[path] for path in group}) > 1]
    if several:
        first = several[0][0]
        other = next(path for path in several[0] if label[path] != label[first])
        log.warning(
            "%d images are there byte for byte under several labels, such as %s (%s) and %s (%s)",
            len(several), first, classes[label[first]], other, classes[label[other]],
        )  # fmt: skip


def same_bytes(image_dir: Any, given: Iterable[str]) -> list[list[str]]:
    """Groups of paths under `image_dir` whose files have the same bytes."""
    on_disk = [path for path in sorted(given) if isinstance(image_dir / path, pathlib.Path)]
    groups = [on_disk]
    for kind in (_size, _end, digest):
        groups = [
            part
            for group in groups
            for part in _divided(group, lambda path, kind=kind: kind(image_dir / path))
        ]
    return groups


def _divided(group: Sequence[str], kind: Any) -> list[list[str]]:
    """The paths of one kind, together, where there are several; what cannot be read has none."""
    found = collections.defaultdict(list)
    for path in group:
        try:
            found[kind(path)].append(path)
        except (InputError, OSError):
            continue
    return [paths for paths in found.values() if len(paths) > 1]


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size


def _end(file: pathlib.Path) -> bytes:
    with files.opened(file) as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - _END))
        return opened.read()
