"""The documented command: in this process, but for what only a process shows."""

import os
import pathlib
import shutil
import subprocess

import PIL.Image
import pytest
from absl import flags
from ml_collections import config_flags

from safe_jax.experiment import run as experiment
from safe_jax.experiment.results import Results
from safe_jax.runtime import command_line, paths
from safe_jax.runtime.errors import InputError
from tests import commands, in_process, tiny
from tests.commands import ROOT, rows


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
    assert lines[0].endswith(" of the mean) over seeds 1, 2; alpha by few_shot_val")
    four = [row["accuracy"] for row in safe if row["shots"] == 4]
    assert lines[3].startswith("SAFE")
    assert f"{sum(four) / 2:.2f} ±" in lines[3]
    assert lines[-2:] == [
        f"{what}: {os.path.relpath(workdir, ROOT)}/{file}"
        for what, file in (("rows", "results.jsonl"), ("report", "report.html"))
    ]
    assert "clip_tiny@" in (workdir / "report.html").read_text()
    assert not (workdir / "checkpoints").exists() or not any((workdir / "checkpoints").iterdir())


def test_training_imports_neither_torch_nor_tensorflow(done):
    lines = done.process.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert {"jax", "flax", "safe_jax.tuning.train"} <= imported
    assert not {"torch", "tensorflow"} & imported


@pytest.mark.usefixtures("one_device")
def test_a_second_run_reuses_bank_and_rows(done, tiny_root, tmp_path, capsys):
    workdir, cache, first = done
    before = (workdir / "results.jsonl").read_bytes()
    assert in_process.run(tiny_root, workdir, cache) == first.stdout
    assert (workdir / "results.jsonl").read_bytes() == before

    capsys.readouterr()
    in_process.run(tiny_root, tmp_path / "elsewhere", cache, shots="4", seeds="1")
    assert "reusing the bank of 48 maps" in capsys.readouterr().err  # train has fewer images now
    wanted = [row for row in rows(workdir) if (row["shots"], row["seed"]) == (4, 1)]
    assert rows(tmp_path / "elsewhere") == wanted


def test_eight_devices_write_the_same_rows_but_for_rounding(done, tiny_root, tmp_path, capsys):
    in_process.run(tiny_root, tmp_path, done.cache)
    progress = capsys.readouterr().err
    assert "8 x cpu" in progress
    assert progress.count("reusing the bank") == 3
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
@pytest.mark.usefixtures("two_devices")
def test_other_modes_run(done, tiny_root, tmp_path, knobs):
    knobs = {"shots": (2,), "cache_dir": str(done.cache)} | knobs
    zero_shot, row = experiment.run(tiny.config(tiny_root, **knobs), tmp_path)
    assert row.accuracy in row.curve["eval"]
    assert row.selection == knobs.get("selection", "few_shot_val")
    assert row.split == zero_shot.split == knobs.get("eval_split", "test")
    if row.selection == "fixed":
        assert (row.alpha, row.curve["alpha"], "val" in row.curve) == (0.25, [0.25], False)
    else:
        assert zero_shot.accuracy == row.curve["eval"][0]  # of the same images


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"lerning_rate": 1},
            "there is no config.lerning_rate: did you mean config.learning_rate?",
        ),
        ({"shots": "2,2"}, "config.shots=(2, 2): different values are expected"),
        ({"learning_rate": 1e30}, "the loss is nan at step"),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_a_mistake_ends_the_command_with_one_line(done, tiny_root, tmp_path, knobs, message):
    with pytest.raises(SystemExit) as ended:
        in_process.run(tiny_root, tmp_path, done.cache, **{"shots": "2", "seeds": "1"} | knobs)
    assert message in ended.value.code
    assert ended.value.code.startswith("error: ")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"epochs": 0}, "config.epochs=0: at least 1 and at most 100000 is expected"),
        ({"weights": "Rn50"}, "or use one of RN50, RN101, RN50x4, RN50x16, RN50x64, RN50-yfcc15m,"),
        ({"weights": __file__}, "is a file: convert it, `python tools/convert"),
        ({"weights": str(ROOT)}, "holds no converted weights"),
        ({"split_file": "absent.json"}, "no such split file"),
        ({"templates": ("a photo of a {}" + " very" * 80,)}, "shorten the class name or"),
        ({"learning_rate": 1e30, "epochs": 1}, "no finite logits: lower the learning rate"),
        ({"trainable": "c_proj"}, "matches no parameter; choose from:\n  attnpool/"),
        ({"selection": "full_val", "eval_split": "val"}, "every validation image chose alpha"),
        ({"dataset": "patches,patches"}, "different data sets are expected"),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_an_experiment_that_cannot_be_run_says_why(done, tiny_root, tmp_path, knobs, message):
    one = {"shots": (2,), "batch_size": 64, "cache_dir": str(done.cache)}
    with pytest.raises(InputError) as caught:
        experiment.run(tiny.config(tiny_root, **one | knobs), tmp_path)
    assert message in str(caught.value)


@pytest.mark.usefixtures("one_device")
def test_classes_with_fewer_images_than_shots_are_warned_of(done, tiny_root, tmp_path, caplog):
    config = tiny.config(tiny_root, shots=(99,), methods=("zero_shot",), cache_dir=str(done.cache))
    experiment.run(config, tmp_path)
    assert "4 of 4 classes have fewer than 99 training images (red has 10) and give" in caplog.text


def test_a_config_of_the_package_is_named_without_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    command_line.parse(["main", "--config", "ablations:q"], values)
    assert values["config"].value.trainable == "attnpool/q_proj/.*"


@pytest.mark.usefixtures("one_device")
def test_rows_of_other_images_are_not_reused(tiny_root, tmp_path):
    """The same names and knobs, but other pictures: all is computed anew."""
    root, workdir = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_root, root)
    config = tiny.config(root, shots=(4,), epochs=20, cache_dir=str(tmp_path / "cache"))
    experiment.run(config, workdir)
    for file in (root / "patches" / "images").rglob("*.jpg"):
        PIL.Image.new("RGB", (70, 70)).save(file)
    experiment.run(config, workdir)
    accuracy = [row["accuracy"] for row in rows(workdir)]
    assert len(accuracy) == 4
    assert accuracy[1] > 25
    assert accuracy[2:] == [25, 25]  # black pictures of four classes


def test_two_runs_do_not_write_one_file(done, tiny_root):
    with (
        Results(done.workdir / "results.jsonl", dataset="patches"),
        pytest.raises(SystemExit, match="another run is writing"),
    ):
        in_process.run(tiny_root, done.workdir, done.cache)


def test_unusable_images_are_named_before_any_work(tiny_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    images = root / "patches" / "images"
    (images / "red" / "test_00.jpg").unlink()
    (images / "blue" / "test_01.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(SystemExit) as ended:
        in_process.run(root, tmp_path / "run", tmp_path / "cache")
    said = ended.value.code
    assert said.startswith("error: 2 of ")
    assert f"{images}/red/test_00.jpg: missing" in said
    assert f"{images}/blue/test_01.jpg: cannot be decoded" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("one_device")
def test_copies_of_training_images_are_warned_of(done, tiny_root, tmp_path, caplog):
    """The same bytes at another path; the split file names both."""
    root = tmp_path / "root"
    shutil.copytree(tiny_root / "patches", root / "patches")
    images = root / "patches" / "images"
    for label in ("red", "blue"):
        shutil.copy(images / label / "train_00.jpg", images / label / "test_00.jpg")
    config = tiny.config(
        root, weights=str(tiny_root / "clip_tiny"), shots=(10,), methods=("zero_shot",),
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    experiment.run(config, tmp_path / "run")
    assert "2 images to evaluate on are byte for byte images to tune or to choose" in caplog.text


def test_a_terminal_without_the_characters_gets_a_table(done, tiny_root, monkeypatch):
    """The rows are there already; the table has a plus-minus."""
    arguments = commands.command(tiny_root, done.workdir, done.cache)
    process = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert process.returncode == 0, process.stderr
    assert b"SAFE" in process.stdout
    assert b" ? " in process.stdout


def test_without_a_home_the_cache_has_to_be_named(monkeypatch):
    def no_home(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", no_home)
    with pytest.raises(InputError, match=r"no home folder is known; name a folder \(config"):
        paths.cache("~/.cache/safe_jax")
