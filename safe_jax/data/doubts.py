"""Warnings of what a listing has that would mislead: leaks, two labels, classes without images."""

import logging
import posixpath

from safe_jax.data.records import Record, Splits

log = logging.getLogger(__name__)

_SHOWN = 5  # names in a warning


def warn(dataset: str, splits: Splits, classnames: tuple[str, ...]) -> None:
    """Warns of what paths, labels and names alone tell; `copies` looks at the images' bytes."""
    train, val, test = (dict.fromkeys(map(_path, part)) for part in splits)
    if shared := (train.keys() | val.keys()) & test.keys():
        log.warning(
            "%d images are in test and in train or val: accuracies will be too high", len(shared)
        )
    if shared := train.keys() & val.keys():
        log.warning(
            "%d images are in train and in val: what validation chooses will suit train alone",
            len(shared),
        )
    _warn_of_two_labels(splits, classnames)
    _warn_of_one_name(classnames)
    _warn_of_absent(dataset, splits, classnames)


def _path(record: Record) -> str:
    return posixpath.normpath(record.path)


def _warn_of_two_labels(splits: Splits, classnames: tuple[str, ...]) -> None:
    labels: dict[str, int] = {}
    several = {}
    for record in (record for part in splits for record in part):
        first = labels.setdefault(_path(record), record.label)
        if first != record.label:
            several[record.path] = first, record.label
    for path, (first, other) in list(several.items())[:1]:
        log.warning(
            "%d images have several labels, such as %s: %s and %s",
            len(several), path, classnames[first], classnames[other],
        )  # fmt: skip


def _warn_of_one_name(classnames: tuple[str, ...]) -> None:
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(classnames):
        labels.setdefault(name, []).append(label)
    several = {name: of_name for name, of_name in labels.items() if len(of_name) > 1}
    for name, of_name in list(several.items())[:1]:
        log.warning(
            "%d class names are those of several labels, such as %s: %s",
            len(several), name, " and ".join(map(str, of_name)),
        )  # fmt: skip


def _warn_of_absent(dataset: str, splits: Splits, classnames: tuple[str, ...]) -> None:
    """Warns of classes without an image to train on, to validate with or to evaluate on."""
    for part, use in (("train", "training"), ("val", "validation"), ("test", "test")):
        there = {record.label for record in getattr(splits, part)}
        absent = [c for label, c in enumerate(classnames) if label not in there]
        if there and absent:
            log.warning(
                "%s: %d of %d classes have no %s image: %s",
                dataset, len(absent), len(classnames), use, _listed(absent),
            )  # fmt: skip


def _listed(names: list[str]) -> str:
    """The first few names, for a warning."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
