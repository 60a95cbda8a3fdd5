"""A checksum for every row of a bank, by which damage is noticed when the bank is opened.

Disks and memory flip bits, copies are cut short, files get swapped: numbers computed of that would
look like any others. A row's checksum covers its dense map and its pooled feature (XXH3, which is
ten times as fast as reading from a disk; it is no protection against malice).
"""

import concurrent.futures
import pathlib
from collections.abc import Sequence

import numpy as np
import xxhash

FILE = "checksums.npy"
_ROWS_AT_ONCE = 256  # of RN50's maps 50 MB


def of_rows(*arrays: np.ndarray) -> np.ndarray:
    """The checksum of each row of arrays that have equally many, uint64 `(r,)`."""
    parts = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in arrays]
    sums = np.empty(len(arrays[0]), np.uint64)
    for row in range(len(sums)):
        hashed = xxhash.xxh3_64()
        for part in parts:
            hashed.update(part[row])
        sums[row] = hashed.intdigest()
    return sums


def damage(
    folder: pathlib.Path, names: Sequence[str], shapes: Sequence[tuple[np.dtype, tuple]],
    rows: int | None = None,
) -> str | None:  # fmt: skip
    """What is wrong with the arrays of a bank, or None.

    Args:
        names: of the arrays' files.
        shapes: the type and the shape that each must have.
        rows: how many rows are filled; all by default.
    """
    arrays = []
    for name, (dtype, shape) in zip((*names, FILE), (*shapes, _of_sums(shapes)), strict=True):
        try:
            arrays.append(np.lib.format.open_memmap(folder / name, mode="r"))
        except Exception as error:  # NumPy parses a header as Python: it may raise anything
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            return f"{name} cannot be read ({reason[:100]})"
        if (arrays[-1].dtype, arrays[-1].shape) != (dtype, shape):
            return f"{name} has {arrays[-1].dtype} {arrays[-1].shape}, not {dtype} {shape}"
    *arrays, sums = arrays
    rows = len(sums) if rows is None else rows
    starts = range(0, rows, _ROWS_AT_ONCE)

    def wrong_rows(start: int) -> np.ndarray:
        stop = min(start + _ROWS_AT_ONCE, rows)
        return start + np.flatnonzero(of_rows(*(x[start:stop] for x in arrays)) != sums[start:stop])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        wrong = np.concatenate([np.empty(0, int), *pool.map(wrong_rows, starts)])
    if len(wrong):
        return f"{len(wrong)} of {rows} rows are not as they were written, the first is {wrong[0]}"
    return None


def _of_sums(shapes):
    return np.dtype(np.uint64), (shapes[0][1][0],)
