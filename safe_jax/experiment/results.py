"""Results: a row for each number in `results.jsonl`, written by one run, read by any."""

import fcntl
import json
import os

from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

# What a report needs of a row; whatever else stands in it is shown where it is known.
_FIELDS = {
    "dataset": str,
    "method": str,
    "shots": int,
    "seed": int,
    "split": str,
    "accuracy": (int, float),
    "selection": str,
    "config_hash": str,
    "weights": str,
    "seconds": (int, float),
}


class Results:
    """The rows of one experiment in a file that several may share, one after the other.

    A row is there whole before `add` returns; what a kill left of one is cut off. Of several hosts
    the first alone opens the file. Use it as a context. Raises `InputError` while another run has
    the file; of one in a bucket, which cannot be locked, this goes unnoticed.
    """

    def __init__(self, path, **common):
        from safe_jax.runtime import (
            hosts,  # it has JAX, which reading rows for a report takes none of
        )

        self.common = common
        self.file = None

        def open_and_read():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = _Object(path) if paths.is_remote(path) else _File(path)
            try:
                return _parse(path, self.file.lines)
            except InputError:
                self.file.close()
                raise

        rows = hosts.on_first(open_and_read)
        # Transfers, of other data sets, have the hash of what was tuned for them.
        shared = {field: common[field] for field in common.keys() - {"dataset"}}
        self.rows = [row for row in rows if row.items() >= shared.items()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file:
            self.file.close()

    def find(self, method: str, shots: int, seed: int, images: str, knobs: dict, dataset=None):
        """The row of a method with these knobs of its own, or None.

        `images` identifies a subset's files; `dataset` is a transfer's, if not what was tuned on.
        """
        key = {"method": method, "shots": shots, "seed": seed, "images": images}
        key["dataset"] = dataset or self.common["dataset"]
        found = (row for row in self.rows if row.items() >= key.items())
        return next((row for row in found if row.get("knobs", {}) == knobs), None)

    def add(self, method: str, shots: int, seed: int, images: str, *, accuracy, **more) -> None:
        """Writes a row; `accuracy` is in per cent."""
        row = {"method": method, "shots": shots, "seed": seed, "accuracy": accuracy}
        row["images"] = images
        line = json.dumps(row | self.common | more, default=_plain)
        if self.file:
            self.file.append(line.encode())
        self.rows.append(json.loads(line))


class _File:
    """Lines of a file on a disk, for this process alone."""

    def __init__(self, path):
        self.file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process
        except BlockingIOError:
            self.file.close()
            raise InputError(
                f"another run is writing {path}: wait for it, or choose another --workdir"
            ) from None
        self.file.seek(0)
        *self.lines, cut_off = self.file.read().split(b"\n")
        if cut_off:  # what a kill left
            self.file.truncate(sum(len(line) + 1 for line in self.lines))

    def append(self, line):
        self.file.write(line + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self):
        self.file.close()


class _Object:
    """Lines of an object in a bucket: nothing can be appended to one, so it is written anew."""

    def __init__(self, path):
        self.path = path
        self.lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def append(self, line):
        self.lines.append(line)
        self.path.write_bytes(b"".join(line + b"\n" for line in self.lines))

    def close(self):
        pass


def read(path) -> list[dict]:
    """The rows of a file that a run may be writing: an unfinished last line is left out."""
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory; name the --workdir of a run")
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} holds no {path.name}: name the --workdir of a run"
        ) from None
    rows = _parse(path, lines)
    for number, row in enumerate(rows, 1):
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(row.get(name), kind)]
        if wrong:
            raise InputError(
                f"{path}, line {number}: {', '.join(wrong)} missing or of another type than "
                "safe_jax.main writes; mend or remove it"
            )
    if not rows:
        raise InputError(f"{path} holds no row: wait until the run has written one, or run anew")
    return rows


def _parse(path, lines):
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (TypeError, ValueError):
            raise InputError(
                f"{path}, line {number}: a row of JSON is expected; mend or remove it"
            ) from None
    return rows


def _plain(x):
    """NumPy's arrays and numbers for JSON."""
    return x.tolist()
