"""A bank on its way: what it depends on, its files, and how far they are filled."""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np

from safe_jax.bank import checksums
from safe_jax.runtime import disk, paths, schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Positive

FILES = "dense.npy", "pooled.npy"

Shapes = Sequence[tuple[np.dtype, tuple[int, ...]]]


class BankContents(schema.Model):
    """All that a bank depends on; its folder's name is the hash of this."""

    format: Literal[3] = 3
    root: str
    weights: str
    dtype: str
    trunk_dtype: str
    views: Positive
    crop_scale: Annotated[tuple[float, float] | None, schema.ListOrTuple]
    images: list[tuple[str, int | None, int | None]]  # path, size in bytes, time of change in ns

    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump()).encode()).hexdigest()[:20]


class Filling:
    """A bank that is being made: the rows before `stop` are there, from this try or an earlier.

    `shapes` are the types and shapes of the arrays of `FILES`.
    """

    def __init__(self, folder: pathlib.Path, contents: BankContents, shapes: Shapes):
        self.folder = folder.with_suffix(".partial")
        self._progress = self.folder / "progress"
        *self._arrays, self._sums = _open_partial(self.folder, contents, shapes)
        self.stop = _stop(self.folder, shapes)

    def write(self, start: int, stop: int, *rows: np.ndarray) -> None:
        """Puts rows of each array into their place, and records that they are there."""
        for array, rows_of_array in zip(self._arrays, rows, strict=True):
            array[start:stop] = rows_of_array
            array.flush()
        self._sums[start:stop] = checksums.of_rows(*rows)
        self._sums.flush()
        paths.write(self._progress, str(stop).encode(), durable=False)


def _open_partial(folder, wanted, shapes):
    """The arrays to be filled and the checksums: those of an earlier try, or new ones."""
    files = [folder / name for name in (*FILES, checksums.FILE)]
    contents = folder / "contents.json"  # written last: without it the arrays may be cut short
    if _has_contents(contents, wanted) and not checksums.damage(
        folder, FILES, shapes, _stop(folder, shapes)
    ):
        return [np.lib.format.open_memmap(file, mode="r+") for file in files]
    paths.remove_folder(folder)
    try:
        with disk.full_disk_told(folder, "set config.cache_dir to a folder on a larger disk"):
            folder.mkdir()
            arrays = _allocated(files, shapes)
            paths.write(contents, wanted.model_dump_json().encode())
    except BaseException:
        paths.remove_folder(folder)
        raise
    return arrays


def _allocated(files, shapes):
    sums = np.dtype(np.uint64), (shapes[0][1][0],)
    arrays = []
    for file, (dtype, shape) in zip(files, (*shapes, sums), strict=True):
        arrays.append(np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape))
        _allocate(file)  # on a disk that is full, writing to a map kills the process
    return arrays


def _stop(folder, shapes):
    """How many rows an earlier try has filled."""
    try:
        stop = int((folder / "progress").read_text())
    except (OSError, ValueError):
        return 0
    return stop if 0 <= stop <= shapes[0][1][0] else 0


def _allocate(file):
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _has_contents(file, wanted):
    try:
        return schema.read_json(BankContents, file.read_bytes(), f"{file}: ") == wanted
    except (InputError, OSError):
        return False
