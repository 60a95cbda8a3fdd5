"""The answers of `safe-jax predict`, a row for each image: as CSV or as JSON lines."""

import contextlib
import csv
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO, Self

import numpy as np

from safe_jax.runtime import disk, paths

_DECIMALS = 6


def answer(
    path: str, probability_k: np.ndarray, classes: Sequence[str], top: int, threshold: float
) -> dict[str, Any]:
    """The row of an image: its `top` classes, the first without a name below `threshold`."""
    row: dict[str, Any] = {"path": path}
    best = np.argsort(-probability_k, kind="stable")[:top]
    for place, label in enumerate(best, 1):
        probability = round(float(probability_k[label]), _DECIMALS)
        suffix = "" if place == 1 else f"_{place}"
        known = place > 1 or probability_k[label] >= threshold
        row[f"label{suffix}"] = classes[label] if known else ""
        row[f"probability{suffix}"] = probability
        if place == 1:
            row["error"] = ""
    return row


def failure(path: str, reason: str) -> dict[str, Any]:
    """The row of an image that cannot be read."""
    return {"path": path, "label": "", "probability": None, "error": reason}


class Answers:
    """Rows on their way to a file, which appears whole at the end, or to standard output.

    Use it as a context; where the block raises, nothing is written to the file.
    """

    def __init__(self, output: pathlib.Path | None, top: int):
        self._output = output
        self._columns = ["path", "label", "probability", "error"]
        for place in range(2, top + 1):
            self._columns += [f"label_{place}", f"probability_{place}"]
        self._as_json = output is not None and output.suffix.lower() == ".jsonl"
        self._file: BinaryIO = _unnamed_file() if output else sys.stdout.buffer
        self.errors = 0

    def __enter__(self) -> Self:
        if not self._as_json:
            self._write_csv(self._columns)
        return self

    def add(self, row: dict[str, Any]) -> None:
        self.errors += bool(row["error"])
        if self._as_json:
            values = {n: None if (x := row.get(n)) == "" else x for n in self._columns}
            self._write(json.dumps(values, ensure_ascii=False) + "\n", "backslashreplace")
        else:
            self._write_csv(["" if (x := row.get(n)) is None else x for n in self._columns])

    def _write_csv(self, values: list[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._write(line.getvalue())

    def _write(self, text: str, otherwise: str = "surrogateescape") -> None:
        # A file's name may be any bytes: in CSV they come out as they are; JSON, which has to be
        # UTF-8, has escapes that `os.fsencode` turns into them.
        with self._full_disk_told():
            self._file.write(text.encode("utf-8", otherwise))

    def _full_disk_told(self):
        if self._output is None:
            return disk.full_disk_told("standard output", "write to another disk")
        where = f"{tempfile.gettempdir()}/{self._output.name}"
        return disk.full_disk_told(where, "set TMPDIR to a folder on another disk")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with self._full_disk_told():
                self._file.flush()
            if self._output and kind is None:
                self._file.seek(0)
                paths.write(self._output, self._file)
        finally:
            if self._output:
                with contextlib.suppress(OSError):  # of what could not be written above
                    self._file.close()


def _unnamed_file() -> BinaryIO:
    """A file without a name: nothing is left of it, however the process ends."""
    return tempfile.TemporaryFile()  # type: ignore[return-value]
