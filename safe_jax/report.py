"""Results: a row for each number in `results.jsonl`, and the table made of them."""

import fcntl
import json
import os
import pathlib
import statistics

from safe_jax.errors import InputError

_METHODS = {"zero_shot": "zero-shot", "safe": "SAFE"}


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
        self.rows = [row for row in self._read() if row.items() >= common.items()]

    def _read(self):
        self.file.seek(0)
        *lines, last = self.file.read().split(b"\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(dict(json.loads(line)))
            except ValueError:
                self.file.close()
                raise InputError(
                    f"{self.file.name}, line {number}: a row of JSON is expected; mend or remove it"
                ) from None
        if last:  # what a kill left
            self.file.truncate(sum(len(line) + 1 for line in lines))
        return rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def rows_of(self, shots: int, seed: int, images: str) -> list[dict]:
        """The rows of one subset; `images` identifies its files."""
        key = {"shots": shots, "seed": seed, "images": images}
        return [row for row in self.rows if row.items() >= key.items()]

    def has(self, method: str, *key) -> bool:
        return any(row["method"] == method for row in self.rows_of(*key))

    def add(self, method: str, shots: int, seed: int, images: str, *, accuracy, **more) -> None:
        """Writes a row; `accuracy` is in per cent."""
        row = {"method": method, "shots": shots, "seed": seed, "accuracy": accuracy}
        row["images"] = images
        line = json.dumps(row | more | self.common, default=_plain)
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.rows.append(json.loads(line))


def _plain(x):
    """NumPy's arrays and numbers for JSON."""
    return x.tolist()


def table(rows: list[dict]) -> str:
    """Accuracy by method and shots: mean and sample standard deviation over seeds.

    Names what was measured and how alpha was chosen, for a number without them says nothing.
    """
    shots = sorted({row["shots"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    chosen = sorted({row["selection"] for row in rows} - {"none"})
    first = rows[0]
    lines = [
        f"{first['dataset']}, {first['weights']}: {first['split']} accuracy (%), mean ± standard "
        f"deviation over seeds {', '.join(map(str, seeds))}; alpha by {', '.join(chosen)}",
        f"{'shots':<12}" + "".join(f"{k:>14}" for k in shots),
    ]
    for method, label in _METHODS.items():
        cells = [
            _cell([r["accuracy"] for r in rows if (r["method"], r["shots"]) == (method, k)])
            for k in shots
        ]
        lines.append(f"{label:<12}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _cell(values):
    if len(set(values)) == 1:  # zero-shot, or a single seed
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
