"""Images that cannot be used: refused, or left out of a listing before anything is drawn."""

import concurrent.futures
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tqdm

from safe_jax.data import images
from safe_jax.data.openable import Openable
from safe_jax.data.records import Record
from safe_jax.runtime import hosts
from safe_jax.runtime.errors import InputError, counted, listing

log = logging.getLogger(__name__)

Unreadable = Literal["refuse", "skip"]
Parts = dict[str, list[Record]]  # the records of each split


def reasons(files: Sequence[Openable], workers: int) -> list[tuple[int, str]]:
    """The places in `files` of those that cannot be used, and why; each host looks at its share."""
    share = range(hosts.index(), len(files), hosts.count())
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = pool.map(images.why_unreadable, [files[at] for at in share])
        quiet = not (share and hosts.is_first())
        bar = tqdm.tqdm(found, "files", len(share), unit=" images", disable=quiet)
        bad = [(at, reason) for at, reason in zip(share, bar, strict=True) if reason]
    return sorted(itertools.chain.from_iterable(hosts.from_all(bad)))


def check(files: Sequence[Openable], workers: int) -> None:
    """Raises `InputError` naming every file that is missing or cannot be decoded."""
    if bad := reasons(files, workers):
        lines = sorted(f"{files[at]}: {reason}" for at, reason in bad)
        raise InputError(
            f"{len(bad)} of {len(files)} images cannot be used; restore them, check "
            "config.data_root, or leave them out with config.unreadable=skip:" + listing(lines)
        )


def leave_out(
    parts: Mapping[str, list[Record]], image_dir: Any, unreadable: Unreadable, workers: int
) -> tuple[Parts, int]:
    """The records whose images can be used, and how many others there are; the log names those.

    Raises `InputError` naming them where they are to be refused, and for a class that would have no
    image left to train on.
    """
    paths = list(dict.fromkeys(record.path for part in parts.values() for record in part))
    bad = {paths[at]: why for at, why in reasons([image_dir / path for path in paths], workers)}
    if not bad:
        return dict(parts), 0
    said = f"{counted(len(bad), 'image')} cannot be used"
    lines = listing([f"{path}: {why}" for path, why in bad.items()])
    if unreadable == "refuse":
        raise InputError(f"{said}:{lines}")
    log.warning("%s, and will be left out:%s", said, lines)
    kept = {name: [r for r in part if r.path not in bad] for name, part in parts.items()}
    for name, part in parts.items():
        gone = sorted({r.classname for r in part} - {r.classname for r in kept[name]})
        if gone and name == "train":
            raise InputError(
                f"no usable training image of {counted(len(gone), 'class')}:" + listing(gone)
            )
        if gone:
            log.warning("%d classes have no %s image left: %s", len(gone), name, ", ".join(gone))
        if part and not kept[name] and name != "val":
            raise InputError(f"none of the {len(part)} {name} images can be used")
    return kept, len(bad)
