"""The documented command on the tiny data set, in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
KNOBS = {
    "shots": "2,4",
    "seeds": "1,2",
    "epochs": 5,
    "batch_size": 8,
    "trunk_batch_size": 4,
    "workers": 2,
}


def command(root, workdir, cache, **knobs) -> list[str]:
    """The command on what `tiny.make` wrote under `root`, with `knobs` changed."""
    knobs = {
        **KNOBS, "data_root": root, "weights": root / "clip_tiny", "cache_dir": cache, **knobs,
    }  # fmt: skip
    return [
        sys.executable, "-m", "safe_jax.main", "--config", "tests/tiny.py",
        "--workdir", os.path.relpath(workdir, ROOT),  # relative, as a user gives it
        *(f"--config.{knob}={value}" for knob, value in knobs.items()),
    ]  # fmt: skip


def rows(workdir) -> list[dict]:
    """The rows in the file, but for their times."""
    lines = (workdir / "results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert all(row.pop("seconds") >= 0 for row in found)
    return found


class Done(NamedTuple):
    """A run that has ended: its folder, its cache, and its process with all that it printed."""

    workdir: pathlib.Path
    cache: pathlib.Path
    process: subprocess.CompletedProcess
