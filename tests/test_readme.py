"""The README's commands."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image

from tests.commands import ROOT


def test_the_readmes_first_command_learns_where_to_look(digits_root, tmp_path):
    """Cut down by its knobs: zero-shot is above chance, tuning far above it."""
    process = subprocess.run(
        [sys.executable, "-m", "safe_jax.main", "--config", "configs/digits.py",
         "--workdir", str(tmp_path / "run"), "--config.cache_dir", str(tmp_path / "cache"),
         "--config.data_root", str(digits_root), "--config.shots=1,16", "--config.seeds=1",
         "--config.methods=zero_shot,safe", "--config.epochs=20", "--config.learning_rate=3e-3"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},  # as a user runs it
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    zero_shot, one, _, sixteen = map(json.loads, lines)
    assert zero_shot["accuracy"] > 20  # chance is 10
    assert one["accuracy"] > zero_shot["accuracy"] - 2
    assert sixteen["accuracy"] > zero_shot["accuracy"] + 12
    looks = sixteen["attention_on_object"]
    assert looks["tuned"] > looks["original"] + 5
    assert process.stdout.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert len(sixteen["examples"]) == 10
    for example in sixteen["examples"]:
        with PIL.Image.open(tmp_path / "run" / example["image"]) as picture:
            assert picture.size == (128, 128)
        for where in example["attention"].values():
            assert abs(np.sum(where) - 1) < 1e-2


def test_the_readmes_photos_become_a_classifier(tmp_path):
    """The lines as they stand there."""
    section = (ROOT / "README.md").read_text().split("\n## Your own photos\n")[1]
    lines = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-euc", lines], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-5000:]
    assert "SAFE on small: 10 classes, 160 training and 40 validation images" in process.stdout
    with open(tmp_path / "answers.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    assert [row["path"] for row in answers] == sorted(
        str(image.relative_to(tmp_path)) for image in (tmp_path / "photos/test").rglob("*.png")
    )
    right = [row["label"] == pathlib.Path(row["path"]).parent.name for row in answers]
    assert len(right) == 797
    assert sum(right) / len(right) > 0.35  # zero-shot: 0.21; chance: 0.1
    assert all(0.1 <= float(row["probability"]) <= 1 and not row["error"] for row in answers)
