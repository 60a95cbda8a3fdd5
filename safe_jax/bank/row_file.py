"""Rows of an array file, read when they are asked for."""

import os
import pathlib
import weakref
from typing import Any

import numpy as np


class RowFile:
    """An array in a `.npy` file, of which `rows[...]` reads the rows asked for and no others.

    `[...]` takes what NumPy takes for the first axis, and gives a copy. A memory map would do the
    same, but pages that it has touched stay in the process's memory while there is room: a bank
    that is larger than memory crowds out everything else. Any thread may read.
    """

    def __init__(self, file: pathlib.Path):
        mapped = np.load(file, mmap_mode="r")
        if not mapped.flags.c_contiguous:
            raise ValueError(f"{file}: rows must lie one after the other")
        self.dtype, self.shape = mapped.dtype, mapped.shape
        self._start = mapped.offset
        self._row_bytes = mapped[:1].nbytes
        self._file = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, on the disk."""
        return len(self) * self._row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, which: Any) -> np.ndarray:
        row_n = np.arange(len(self))[which]
        rows = np.empty((*row_n.shape, *self.shape[1:]), self.dtype)
        buffer = rows.reshape(-1).view(np.uint8).data
        spans = self._spans(row_n.ravel())
        if hasattr(os, "posix_fadvise"):  # macOS has none
            for _, offset, size in spans:  # the disk may fetch all while the first is copied
                os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_WILLNEED)
        for at, offset, size in spans:
            self._read(buffer[at : at + size], offset)
        return rows

    def _spans(self, row_n):
        """Runs of neighbouring rows: place in the result and in the file, and size, in bytes."""
        cuts = np.flatnonzero(np.diff(row_n) != 1) + 1
        first = np.concatenate([[0], cuts]) if len(row_n) else np.empty(0, int)
        count = np.diff(np.append(first, len(row_n)))
        spans = zip(first.tolist(), row_n[first].tolist(), count.tolist(), strict=True)
        size = self._row_bytes
        return [(at * size, self._start + row * size, n * size) for at, row, n in spans]

    def _read(self, buffer, offset):
        while buffer:
            read = os.preadv(self._file, [buffer], offset)
            if not read:
                raise OSError(f"a bank is shorter than it was: {offset} is beyond its end")
            buffer, offset = buffer[read:], offset + read
