"""`safe-jax evaluate`: one number, whichever way a classifier is asked; and what it warns of."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from safe_jax import SafeClassifier
from tests import in_process
from tests.commands import rows
from tests.fitted import EPOCHS, RATES, SHOTS


@pytest.fixture(scope="module")
def evaluated(bench, fitted, tmp_path_factory):
    """What the command prints and writes of the test images."""
    file = tmp_path_factory.mktemp("evaluated") / "evaluation.json"
    ended = bench.safe_jax("evaluate", fitted.folder, bench.photos, "--output", file)
    assert ended.code == 0, ended.err
    return ended, json.loads(file.read_text())


@pytest.fixture(scope="module")
def experiment(tiny_root, bench, tmp_path_factory):
    """An experiment on the same subset with the same knobs, which keeps its classifiers."""
    workdir = tmp_path_factory.mktemp("experiment")
    in_process.call_tiny(
        tiny_root, workdir, bench.cache, dataset="", split_file="", image_dir=bench.photos,
        shots=SHOTS, epochs=EPOCHS, learning_rates=RATES, batch_size=64, trunk_batch_size=32,
        save_classifiers=True,
    )  # fmt: skip
    return workdir


@pytest.mark.usefixtures("one_device")
def test_every_way_gives_the_same_accuracy(bench, fitted, evaluated, experiment, tmp_path):
    accuracy = evaluated[1]["accuracy"]
    assert 30 < accuracy < 100  # neither chance nor perfect, where mistakes might not show

    answers = tmp_path / "answers.csv"
    bench.safe_jax("predict", fitted.folder, bench.photos / "test", "--output", answers)
    with open(answers, newline="") as file:
        read = list(csv.DictReader(file))
    right = [row["path"].split("/")[-2] == row["label"] for row in read]
    assert len(right) == 48
    assert 100 * np.mean(right) == pytest.approx(accuracy)

    files = [row["path"] for row in read]
    labels = [path.split("/")[-2] for path in files]
    assert 100 * SafeClassifier.load(fitted.folder).score(files, labels) == pytest.approx(accuracy)

    row = next(row for row in rows(experiment) if row["method"] == "safe")
    assert row["accuracy"] == pytest.approx(accuracy)
    described = json.loads((fitted.folder / "classifier.json").read_text())
    assert (row["alpha"], row["learning_rate"]) == (
        described["alpha"], described["making"]["learning_rate"],
    )  # fmt: skip


def test_the_artifact_of_an_experiment_has_the_accuracy_of_its_row(bench, experiment):
    """Exactly: nothing of it is rounded away, and the images pass the same programs."""
    folders = sorted((experiment / "classifiers").iterdir())
    assert len(folders) == 2
    for folder, row in zip(
        folders, sorted(rows(experiment), key=lambda row: row["method"]), strict=True
    ):
        assert f"-{row['method']}-8shot-seed1-" in folder.name
        file = experiment / f"{row['method']}.json"
        ended = bench.safe_jax("evaluate", folder, bench.photos, "--output", file)
        assert ended.code == 0, ended.err
        assert json.loads(file.read_text())["accuracy"] == row["accuracy"]


def test_the_test_images_are_evaluated_and_the_figures_printed(fitted, evaluated):
    ended, found = evaluated
    assert ended.err == ""
    assert ended.out.startswith(f"{fitted.folder.name} (SAFE) on photos, test\n")
    assert f"accuracy: {found['accuracy']:.2f} % of 48 images (95 % interval " in ended.out
    assert ended.out.rstrip().endswith("evaluation.json")
    assert (found["count"], found["seen"], found["unreadable"]) == (48, 0, [])
    assert all(mistake["picture"] and mistake["attention"] for mistake in found["mistakes"])
    assert len(found["mistakes"]) == 12


def test_a_page_is_written(bench, fitted, tmp_path):
    file = tmp_path / "made" / "page.html"
    ended = bench.safe_jax("evaluate", fitted.folder, bench.photos, "--output", file)
    assert ended.code == 0
    assert ended.out.endswith(f"evaluation: {file}\n")
    assert fitted.folder.name in file.read_text()
    assert file.read_text().count("data:image/jpeg;base64,") >= 12


def test_images_that_were_fitted_on_are_warned_of(bench, fitted, tmp_path):
    """By their bytes: it does not matter where they are."""
    for part in ("train", "test"):
        for name in ("red", "blue"):
            shutil.copytree(bench.photos / part / name, tmp_path / "x" / name, dirs_exist_ok=True)
    (tmp_path / "x").rename(tmp_path / "elsewhere")
    ended = bench.safe_jax("evaluate", fitted.folder, tmp_path / "elsewhere")
    assert ended.code == 0
    assert (
        "warning: the classifier was fitted on 16 of these 44 images: do not expect this accuracy"
    ) in ended.out


def test_unreadable_images_are_left_out_and_counted(bench, fitted, tmp_path):
    for name in ("red", "blue"):
        shutil.copytree(bench.photos / "test" / name, tmp_path / "x" / name)
    (tmp_path / "x" / "red" / "test_00.jpg").write_text("no image")
    file = tmp_path / "evaluation.json"
    ended = bench.safe_jax("evaluate", fitted.folder, tmp_path / "x", "--output", file)
    assert ended.code == 1
    assert ended.err == "error: 1 image could not be read; the others count\n"
    found = json.loads(file.read_text())
    assert (found["count"], found["unreadable"][0][0]) == (23, "red/test_00.jpg")
    assert "1 image could not be read and was left out" in ended.out


def test_classes_may_be_fewer_and_spelled_with_blanks(bench, fitted, evaluated, tmp_path):
    lines = [f"{file},dark grey" for file in bench.images("test", "dark_grey")]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    file = tmp_path / "evaluation.json"
    given = fitted.folder, tmp_path / "list.csv", "--image-dir", "/"
    assert bench.safe_jax("evaluate", *given, "--output", file)[0] == 0
    assert json.loads(file.read_text())["per_class"][1] == evaluated[1]["per_class"][1] | {
        "precision": pytest.approx(100)
    }


def test_what_cannot_be_evaluated_is_said(bench, fitted, tmp_path):
    for name in ("red", "pink", "dark_gray"):
        (tmp_path / "strange" / name).mkdir(parents=True)
        shutil.copy(bench.images("test", "red")[0], tmp_path / "strange" / name)
    for name in ("red", "blue"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "1.jpg").write_text("no image")
    for arguments, said in (
        ((fitted.folder, tmp_path / "strange"), "strange has 2 classes that the classifier was not "
         "fitted on (it knows blue, dark_grey, green, red):\n  dark gray\n  pink\n"),
        ((fitted.folder, tmp_path / "broken"), "broken: no image could be evaluated"),
        ((fitted.folder, tmp_path / "absent"), "absent: no such file or folder"),
        ((fitted.folder, tmp_path), "has 2 classes that the classifier was not fitted on"),
        ((tmp_path, bench.photos), "holds no classifier (classifier.json)"),
        ((fitted.folder, bench.photos, "--output", "page.txt"), ".html or .json is expected"),
        ((fitted.folder, bench.photos, "--image-dir", tmp_path), "--image-dir is for lists"),
    ):  # fmt: skip
        code, out, err = bench.safe_jax("evaluate", *arguments)
        assert (code, out) == (1, ""), arguments
        assert re.search("^error: ", err, re.MULTILINE)
        assert said in err
