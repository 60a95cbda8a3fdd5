"""Room on a disk and permission to write there, told of before the work where it can be."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from safe_jax.runtime.errors import InputError


def check_writable(folder: pathlib.Path, knob: str = "") -> None:
    """Raises `InputError` where a folder cannot be made, or nothing can be made in it.

    Args:
        knob: what names the folder, for the message: `--workdir`.
    """
    existing = folder.absolute()
    while not os.path.lexists(existing):  # a link that leads nowhere is there, too
        existing = existing.parent
    if not existing.is_dir():
        what = "a link that leads nowhere" if existing.is_symlink() else "no folder"
    elif not _takes_folders(existing):
        what = "no folder that can be written to"
    else:
        return
    raise InputError(f"{knob + '=' * bool(knob)}{folder}: {existing} is {what}; name another")


def _takes_folders(folder: pathlib.Path) -> bool:
    """Whether a folder can be made in this one: permissions alone do not tell, so one is made."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=folder))
    except OSError:
        return False
    return True


def check_room(folder: Any, needed: int, what: str, instead: str) -> None:
    """Raises `InputError` if the disk of a folder, which exists, has less than `needed` bytes.

    Args:
        what: is to be written, in the plural.
        instead: what the user may do, but for making room.
    """
    if not isinstance(folder, pathlib.Path):  # in a bucket
        return
    if needed > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"{what} take {_gigabytes(needed)}, but {folder} has {_gigabytes(free)} free: make "
            f"room, or {instead}"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def full_disk_told(file: object, instead: str = "choose another folder") -> Iterator[None]:
    """Raises `InputError`, which names the file, where the block finds its disk full.

    The system's own message names no file, and nothing to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{file} cannot be written, no space is left on its disk: make room, or {instead}"
        ) from error
