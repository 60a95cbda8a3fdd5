"""Results: a row for each number in `results.jsonl`, and the table made of them."""

import json
import os
import pathlib
import statistics

import numpy as np

_METHODS = {"zero_shot": "zero-shot", "safe": "SAFE"}


class Results:
    """The rows of one experiment in a file that several may share.

    A row is appended whole and synced before `add` returns; what a kill left of one is cut off.
    """

    def __init__(self, path: pathlib.Path, **common):
        self.path = path
        self.common = common
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        rows = map(json.loads, whole.splitlines())
        self.rows = [row for row in rows if row.items() >= common.items()]

    def has(self, method: str, shots: int, seed: int) -> bool:
        return any((r["method"], r["shots"], r["seed"]) == (method, shots, seed) for r in self.rows)

    def add(self, method: str, shots: int, seed: int, accuracy: float, **more) -> None:
        """Writes a row; `accuracy` is in per cent."""
        row = {
            "method": method,
            "shots": shots,
            "seed": seed,
            "accuracy": accuracy,
            **more,
            **self.common,
        }
        line = json.dumps(_plain(row))
        with open(self.path, "a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(json.loads(line))


def _plain(x):
    """For JSON: lists for arrays, and floats in no more digits than tell float32 apart."""
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, np.ndarray):
        return [_plain(value) for value in x]
    return float(f"{x:.8g}") if isinstance(x, (float, np.floating)) else x


def table(rows: list[dict]) -> str:
    """Accuracy by method and shots: mean and sample standard deviation over seeds.

    Names what was measured and how alpha was chosen, for a number without them says nothing.
    """
    shots = sorted({row["shots"] for row in rows} - {0})
    seeds = sorted({row["seed"] for row in rows if row["shots"]})
    chosen = {row["selection"] for row in rows if row["shots"]}
    first = rows[0]
    lines = [
        f"{first['dataset']}, {first['weights']}: {first['split']} accuracy (%), mean ± standard "
        f"deviation over seeds {', '.join(map(str, seeds))}; alpha by {', '.join(sorted(chosen))}",
        f"{'shots':<12}" + "".join(f"{k:>14}" for k in shots),
    ]
    for method, label in _METHODS.items():
        by_shots = {k: [r["accuracy"] for r in rows if (r["method"], r["shots"]) == (method, k)]
                    for k in (0, *shots)}  # fmt: skip
        cells = [_cell(by_shots[k] or by_shots[0]) for k in shots]
        lines.append(f"{label:<12}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _cell(values):
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
