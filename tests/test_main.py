"""The documented command, in processes of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import PIL.Image
import pytest

from safe_jax.results import Results
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
KNOBS = {
    "shots": "2,4",
    "seeds": "1,2",
    "epochs": 5,
    "batch_size": 8,
    "trunk_batch_size": 4,
    "checkpoint_every": 1,
    "workers": 2,
}


def command(root, workdir, cache, **knobs):
    knobs = {
        **KNOBS, "data_root": root, "weights": root / "clip_tiny", "cache_dir": cache, **knobs,
    }  # fmt: skip
    return [
        sys.executable, "-m", "safe_jax.main", "--config", "configs/tiny.py",
        "--workdir", os.path.relpath(workdir, ROOT),  # relative, as a user gives it
        *(f"--config.{knob}={value}" for knob, value in knobs.items()),
    ]  # fmt: skip


def run(*args, **knobs):
    return subprocess.run(command(*args, **knobs), cwd=ROOT, capture_output=True, text=True)


def rows(workdir):
    """What stands in the file, but for the times."""
    lines = (workdir / "results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert all(row.pop("seconds") >= 0 for row in found)
    return found


class Done(NamedTuple):
    workdir: pathlib.Path
    cache: pathlib.Path
    process: subprocess.CompletedProcess


@pytest.fixture(scope="module")
def done(tiny_root, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir, cache = tmp_path_factory.mktemp("done"), tmp_path_factory.mktemp("cache")
    process = run(tiny_root, workdir, cache)
    assert process.returncode == 0, process.stderr
    return Done(workdir, cache, process)


def test_prints_the_table_last_and_writes_rows_and_report(done):
    workdir, _, process = done
    found = rows(workdir)
    safe = [row for row in found if row["method"] == "safe"]
    assert [(r["shots"], r["seed"]) for r in safe] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    for row in safe:
        assert row["dataset"] == "patches"
        assert row["split"] == "test"
        assert row["selection"] == "few_shot_val"
        assert row["weights"].startswith("clip_tiny@")
        assert len(row["losses"]) == 5
        assert len(row["curve"]["alpha"]) == len(row["curve"]["eval"]) == 21
        best = max(row["curve"]["val"])
        chosen = row["curve"]["alpha"].index(row["alpha"])
        assert row["curve"]["val"][chosen] == best
        assert row["accuracy"] == row["curve"]["eval"][chosen]
    zero_shot = [row for row in found if row["method"] == "zero_shot"]
    assert [(r["shots"], r["seed"]) for r in zero_shot] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    for row, blended in zip(zero_shot, safe, strict=True):
        assert row["accuracy"] == blended["curve"]["eval"][0]
        assert (row["selection"], row["alpha"]) == ("none", None)

    lines = process.stdout.splitlines()
    assert lines[0].startswith("patches, clip_tiny@")
    assert "mean ± standard deviation over seeds 1, 2; alpha by few_shot_val" in lines[0]
    four = [row["accuracy"] for row in safe if row["shots"] == 4]
    assert lines[3].startswith("SAFE")
    assert f"{sum(four) / 2:.2f} ±" in lines[3]
    assert lines[-2:] == [
        f"{what}: {os.path.relpath(workdir, ROOT)}/{file}"
        for what, file in (("rows", "results.jsonl"), ("report", "report.html"))
    ]
    assert "clip_tiny@" in (workdir / "report.html").read_text()
    assert not (workdir / "checkpoints").exists() or not any((workdir / "checkpoints").iterdir())


def test_training_imports_neither_torch_nor_tensorflow(done, tiny_root):
    workdir, cache, _ = done
    arguments = command(tiny_root, workdir, cache)[3:]
    script = (
        "import runpy, sys; sys.argv = ['main', *sys.argv[1:]]\n"
        "try: runpy.run_module('safe_jax.main', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "[]"


def test_a_second_run_reuses_bank_and_rows(done, tiny_root, tmp_path):
    workdir, cache, first = done
    before = (workdir / "results.jsonl").read_bytes()
    again = run(tiny_root, workdir, cache)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert (workdir / "results.jsonl").read_bytes() == before

    elsewhere = run(tiny_root, tmp_path / "elsewhere", cache, shots="4", seeds="1")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "reusing the bank of 48 maps" in elsewhere.stderr  # test; train has fewer images now
    wanted = [row for row in rows(workdir) if (row["shots"], row["seed"]) == (4, 1)]
    assert rows(tmp_path / "elsewhere") == wanted


def test_a_row_that_a_kill_cut_short_is_written_anew(done, tiny_root, tmp_path):
    workdir, cache, _ = done
    whole = (workdir / "results.jsonl").read_bytes()
    (tmp_path / "results.jsonl").write_bytes(whole[: len(whole) - 150])
    process = run(tiny_root, tmp_path, cache)
    assert process.returncode == 0, process.stderr
    assert rows(tmp_path) == rows(workdir)


def test_killed_five_times_in_extraction_and_five_in_tuning(done, tiny_root, tmp_path):
    """Kill -9 at different moments; the rows are those of the run that nothing disturbed."""
    workdir, cache = tmp_path / "run", tmp_path / "cache"

    def extracted():
        """Banks that are done, and maps of the one under way."""
        banks = list((cache / "banks").glob("*"))
        under_way = [file.read_text() for file in (cache / "banks").glob("*.partial/progress")]
        return sum(b.suffix == "" for b in banks), max((int(n) for n in under_way), default=0)

    def tuned():
        """Rows of SAFE that are written, and steps saved of the run under way."""
        results = workdir / "results.jsonl"
        written = results.read_text().count('"safe"') if results.exists() else 0
        shots, seed = [(2, 1), (2, 2), (4, 1), (4, 2), ("all", "done")][written]
        saved = (workdir / "checkpoints").glob(f"*-{shots}-{seed}-*/*")
        return written, max((int(f.name) for f in saved if f.name.isdigit()), default=0)

    moments = [(extracted, m) for m in ((0, 4), (0, 12), (0, 28), (1, 4), (2, 4))]
    moments += [(tuned, m) for m in ((0, 1), (0, 3), (1, 2), (2, 4), (3, 6))]
    for progress, moment in moments:
        process = subprocess.Popen(
            command(tiny_root, workdir, cache), cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while progress() < moment:
            assert process.poll() is None, f"ended before {progress.__name__} was {moment}"
            assert progress()[0] <= moment[0], f"went past {progress.__name__} {moment}"
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = run(tiny_root, workdir, cache)
    assert last.returncode == 0, last.stderr
    assert "resuming at step" in last.stderr
    assert rows(workdir) == rows(done.workdir)


def test_sigterm_saves_and_the_same_command_goes_on(done, tiny_root, tmp_path):
    cache = done.cache
    workdir = tmp_path / "run"
    arguments = command(tiny_root, workdir, cache, checkpoint_every=10_000)
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((workdir / "checkpoints").glob("*")):
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: stopped after step" in said
    again = run(tiny_root, workdir, cache, checkpoint_every=10_000)
    assert "resuming at step" in again.stderr
    assert rows(workdir) == rows(done.workdir)


def test_eight_devices_write_the_same_rows_but_for_rounding(done, tiny_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    process = run(tiny_root, tmp_path, done.cache)
    assert process.returncode == 0, process.stderr
    assert "8 x cpu" in process.stderr
    assert process.stderr.count("reusing the bank") == 3
    for row, wanted in zip(rows(tmp_path), rows(done.workdir), strict=True):
        assert row["accuracy"] == pytest.approx(wanted["accuracy"], abs=2.1)  # an image of 48
        assert row.get("losses", []) == pytest.approx(wanted.get("losses", []), rel=1e-4)


@pytest.mark.parametrize(
    "knobs",
    [
        {"features": "online", "views": 2},
        {"selection": "fixed", "alpha": 0.25},
        {"selection": "full_val", "blend": "unit", "train_alpha": 0.7},
        {"eval_split": "val", "blend": "logit"},
    ],
)
def test_other_modes_run(done, tiny_root, tmp_path, knobs):
    process = run(tiny_root, tmp_path, done.cache, shots="2", seeds="1", **knobs)
    assert process.returncode == 0, process.stderr
    zero_shot, row = rows(tmp_path)
    assert row["accuracy"] in row["curve"]["eval"]
    assert row["selection"] == knobs.get("selection", "few_shot_val")
    assert row["split"] == zero_shot["split"] == knobs.get("eval_split", "test")
    if row["selection"] == "fixed":
        assert (row["alpha"], row["curve"]["alpha"], "val" in row["curve"]) == (0.25, [0.25], False)
    else:
        assert zero_shot["accuracy"] == row["curve"]["eval"][0]  # of the same images


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            {"lerning_rate": 1},
            "there is no config.lerning_rate: did you mean config.learning_rate?",
        ),
        ({"epochs": 0}, "config.epochs=0: at least 1 is expected"),
        ({"blend": "features"}, "config.blend='features': one of feature, unit, logit"),
        ({"shots": "2,2"}, "different whole numbers are expected"),
        ({"weights": "nowhere"}, "holds no converted weights"),
        ({"split_file": "absent.json"}, "no such split file"),
        ({"templates": "('a photo of a {}" + " very" * 80 + "',)"}, "shorten the class name or"),
        ({"learning_rate": 1e30}, "the loss is nan at step"),
        ({"learning_rate": 1e30, "epochs": 1}, "no finite logits: lower the learning rate"),
        ({"seeds": "-1,"}, "config.seeds=(-1,): from 0"),
        ({"crop_scale": "0.8,"}, "0 < low <= high <= 1 is expected"),
        ({"trainable": "("}, "is no regular expression"),
        ({"trainable": "c_proj"}, "matches no parameter; choose from:\n  attnpool/"),
        ({"selection": "full_val", "eval_split": "val"}, "every validation image chose alpha"),
    ],
)
def test_mistakes_are_told_without_a_traceback(done, tiny_root, tmp_path, knobs, said):
    process = run(tiny_root, tmp_path, done.cache, **{"shots": "2", "seeds": "1"} | knobs)
    assert process.returncode == 1
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_a_mistyped_knob_in_a_config_file_is_told(tmp_path):
    file = tmp_path / "mistyped.py"
    file.write_text(
        "from configs import default\n\n\ndef get_config():\n"
        "    config = default.get_config()\n    config.learning_rte = 1\n    return config\n"
    )
    for config, said in (
        (file, "there is no config.learning_rte: did you mean config.learning_rate?"),
        (tmp_path / "absent.py", "No such file"),
    ):
        arguments = [sys.executable, "-m", "safe_jax.main", "--config", str(config)]
        process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 1
        assert said in process.stderr
        assert process.stderr.startswith("error: ")
        assert process.stderr.count("\n") == 1


def test_readmes_first_command(tmp_path):
    """Without the installation, for one shot and seed; twice, for a made demo is kept."""
    make = [sys.executable, "-m", "tests.tiny", str(tmp_path / "demo")]
    arguments = command(tmp_path / "demo", tmp_path / "run", tmp_path / "cache", shots=1, seeds=1)
    for _ in range(2):
        subprocess.run(make, cwd=ROOT, check=True)
        process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
    assert len(rows(tmp_path / "run")) == 2


def test_rows_of_other_images_are_not_reused(tmp_path):
    """The same names and knobs, but every picture is another: all is computed anew."""
    root, workdir = tmp_path / "data", tmp_path / "run"
    tiny.make(root)
    first = run(root, workdir, tmp_path / "cache", shots="4", seeds="1")
    for file in (root / "patches" / "images").rglob("*.jpg"):
        PIL.Image.new("RGB", (70, 70)).save(file)
    second = run(root, workdir, tmp_path / "cache", shots="4", seeds="1")
    assert first.returncode == second.returncode == 0, second.stderr
    accuracy = [row["accuracy"] for row in rows(workdir)]
    assert len(accuracy) == 4
    assert accuracy[1] > 25
    assert accuracy[2:] == [25, 25]  # black pictures of four classes


def test_two_runs_do_not_write_one_file(done, tiny_root):
    with Results(done.workdir / "results.jsonl", dataset="patches"):
        process = run(tiny_root, done.workdir, done.cache)
    assert process.returncode == 1
    assert "another run is writing" in process.stderr


def test_unusable_images_are_named_before_any_work(tmp_path):
    tiny.make(tmp_path / "data")
    root = tmp_path / "data"
    images = root / "patches" / "images"
    (images / "red" / "test_00.jpg").unlink()
    (images / "blue" / "test_01.jpg").write_bytes(b"\xff\xd8 nothing")
    process = run(root, tmp_path / "run", tmp_path / "cache")
    assert process.returncode == 1
    assert "2 of " in process.stderr
    assert f"{images}/red/test_00.jpg: missing" in process.stderr
    assert f"{images}/blue/test_01.jpg: cannot be decoded" in process.stderr
    assert not (tmp_path / "cache").exists()
