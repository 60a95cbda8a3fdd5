"""Results: a row for each number in `results.jsonl`, written by one run, read by any."""

import fcntl
import json
import os
import pathlib

from safe_jax.errors import InputError

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

    A row is appended whole and synced before `add` returns; what a kill left of one is cut off.
    Use it as a context. Raises `InputError` while another process has the file.
    """

    def __init__(self, path: pathlib.Path, **common):
        self.common = common
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process
        except BlockingIOError:
            self.file.close()
            raise InputError(
                f"another run is writing {path}: wait for it, or choose another --workdir"
            ) from None
        # Transfers, of other data sets, have the hash of what was tuned for them.
        shared = {field: common[field] for field in common.keys() - {"dataset"}}
        self.rows = [row for row in self._read() if row.items() >= shared.items()]

    def _read(self):
        self.file.seek(0)
        *lines, last = self.file.read().split(b"\n")
        try:
            rows = _parse(self.file.name, lines)
        except InputError:
            self.file.close()
            raise
        if last:  # what a kill left
            self.file.truncate(sum(len(line) + 1 for line in lines))
        return rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
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
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.rows.append(json.loads(line))


def read(path: pathlib.Path) -> list[dict]:
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
