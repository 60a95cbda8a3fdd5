"""The documented command for a folder of one's own, in a process of its own."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_a_folder_and_one_command(tiny_root, tmp_path):
    knobs = {
        "image_dir": tiny_root / "patches" / "images", "weights": tiny_root / "clip_tiny",
        "cache_dir": tmp_path / "cache", "shots": 2, "seeds": 1, "epochs": 2,
    }  # fmt: skip
    process = subprocess.run(
        [
            sys.executable, "-m", "safe_jax.main", "--config", "configs/folder.py",
            "--workdir", tmp_path / "run",
            *(f"--config.{knob}={value}" for knob, value in knobs.items()),
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "images: 4 classes; 56 train, 24 val and 32 test images" in process.stderr
    rows = map(json.loads, (tmp_path / "run" / "results.jsonl").read_text().splitlines())
    assert [(row["dataset"], row["method"]) for row in rows] == [
        ("images", "zero_shot"), ("images", "safe"),
    ]  # fmt: skip
