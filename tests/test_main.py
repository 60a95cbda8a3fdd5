"""The documented command, in processes of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

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
    knobs = KNOBS | {"data_root": root, "weights": root / "weights", "cache_dir": cache} | knobs
    return [
        sys.executable, "-m", "safe_jax.main", "--config", "configs/tiny.py",
        "--workdir", str(workdir), *(f"--config.{knob}={value}" for knob, value in knobs.items()),
    ]  # fmt: skip


def run(*args, **knobs):
    return subprocess.run(command(*args, **knobs), cwd=ROOT, capture_output=True, text=True)


def rows(workdir):
    """What stands in the file, but for the times."""
    lines = (workdir / "results.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert all(row.pop("seconds") >= 0 for row in found)
    return found


@pytest.fixture(scope="module")
def done(tiny_root, tmp_path_factory):
    """A run that nothing disturbed: its folder, its cache, and what it printed."""
    workdir, cache = tmp_path_factory.mktemp("done"), tmp_path_factory.mktemp("cache")
    process = run(tiny_root, workdir, cache)
    assert process.returncode == 0, process.stderr
    return workdir, cache, process


def test_prints_the_table_last_and_writes_the_rows(done):
    workdir, _, process = done
    found = rows(workdir)
    safe = [row for row in found if row["method"] == "safe"]
    assert [(r["shots"], r["seed"]) for r in safe] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    for row in safe:
        assert row["dataset"] == "patches"
        assert row["split"] == "test"
        assert row["selection"] == "few_shot_val"
        assert row["weights"].startswith("weights@")
        assert len(row["losses"]) == 5
        assert len(row["curve"]["alpha"]) == len(row["curve"]["test"]) == 21
        best = max(row["curve"]["val"])
        chosen = row["curve"]["alpha"].index(row["alpha"])
        assert row["curve"]["val"][chosen] == best
        assert row["accuracy"] == row["curve"]["test"][chosen]
    zero_shot = found[0]
    assert (zero_shot["method"], zero_shot["shots"]) == ("zero_shot", 0)
    assert all(row["curve"]["test"][0] == zero_shot["accuracy"] for row in safe)

    lines = process.stdout.splitlines()
    assert lines[0].startswith("patches, weights@")
    assert "mean ± standard deviation over seeds 1, 2; alpha by few_shot_val" in lines[0]
    four = [row["accuracy"] for row in safe if row["shots"] == 4]
    assert lines[-2].startswith("SAFE")
    assert f"{sum(four) / 2:.2f} ±" in lines[-2]
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
    wanted = [row for row in rows(workdir) if (row["shots"], row["seed"]) in ((0, 0), (4, 1))]
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

    def maps_done():
        finished = sum(folder.suffix == "" for folder in (cache / "banks").glob("*"))
        progress = [int(f.read_text() or 0) for f in (cache / "banks").glob("*.partial/progress")]
        return 1000 * finished + sum(progress)

    def steps_done():
        results = workdir / "results.jsonl"
        written = results.read_text().count("\n") if results.exists() else 0
        shots, seed = [(2, 1), (2, 2), (4, 1), (4, 2)][max(0, written - 1)]
        saved = (workdir / "checkpoints").glob(f"*-{shots}-{seed}/*")
        return 1000 * written + max((int(f.name) for f in saved if f.name.isdigit()), default=0)

    moments = [(maps_done, n) for n in (4, 12, 28, 1004, 2004)]
    moments += [(steps_done, n) for n in (1001, 1003, 2002, 3004, 4006)]
    for progress, moment in moments:
        process = subprocess.Popen(
            command(tiny_root, workdir, cache), cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while progress() < moment:
            assert process.poll() is None, f"ended before {progress.__name__} was {moment}"
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = run(tiny_root, workdir, cache)
    assert last.returncode == 0, last.stderr
    assert "resuming at step" in last.stderr
    assert rows(workdir) == rows(done[0])


def test_sigterm_saves_and_the_same_command_goes_on(done, tiny_root, tmp_path):
    cache = done[1]
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
    assert rows(workdir) == rows(done[0])


def test_eight_devices_write_the_same_rows_but_for_rounding(done, tiny_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    process = run(tiny_root, tmp_path, done[1])
    assert process.returncode == 0, process.stderr
    assert "8 x cpu" in process.stderr
    assert process.stderr.count("reusing the bank") == 3
    for row, wanted in zip(rows(tmp_path), rows(done[0]), strict=True):
        assert row["accuracy"] == pytest.approx(wanted["accuracy"], abs=2.1)  # an image of 48
        assert row.get("losses", []) == pytest.approx(wanted.get("losses", []), rel=1e-4)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"features": "online"}, None),
        ({"selection": "fixed", "alpha": 0.25}, None),
        ({"selection": "full_val", "split": "val"}, "every validation image chose alpha"),
        (
            {"lerning_rate": 1},
            "there is no config.lerning_rate: did you mean config.learning_rate?",
        ),
        ({"epochs": 0}, "config.epochs=0: at least 1 is expected"),
        ({"blend": "features"}, "config.blend='features': one of feature, unit, logit"),
        ({"weights": "nowhere"}, "holds no converted weights"),
        ({"split_file": "absent.json"}, "no such split file"),
        ({"learning_rate": 1e30}, "the loss is nan at step"),
    ],
)
def test_other_modes_and_mistakes(done, tiny_root, tmp_path, knobs, said):
    process = run(tiny_root, tmp_path, done[1], **{"shots": "2", "seeds": "1"} | knobs)
    if said is None:
        assert process.returncode == 0, process.stderr
        row = rows(tmp_path)[-1]
        if "alpha" in knobs:
            assert (row["selection"], row["alpha"], row["curve"]["val"]) == ("fixed", 0.25, None)
    else:
        assert process.returncode == 1
        assert said in process.stderr
        assert "Traceback" not in process.stderr


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
