"""`safe-jax predict`: rows as CSV and JSON, pictures, other classes, images that cannot be read."""

import csv
import io
import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest

from safe_jax.commands.answers import Answers, answer
from tests.data.image_files import picture


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def mixed(bench, tmp_path):
    """A folder with images, some of which cannot be read, and with other files."""
    root = tmp_path / "mixed"
    (root / "more").mkdir(parents=True)
    good = bench.images("test", "red")[:2]
    shutil.copy(good[0], root / "1.jpg")
    shutil.copy(good[1], root / "more" / "1.JPG")
    (root / "2.jpg").write_bytes(good[0].read_bytes()[:900])
    (root / "more" / "3.png").write_text("no image")
    (root / ".hidden.jpg").write_text("")
    (root / "notes.txt").write_text("")
    return root


def test_a_folder_gives_a_row_for_each_image_below_it(bench, fitted, mixed):
    """Those that cannot be read have the reason, and the others their answer all the same."""
    code, out, err = bench.safe_jax("predict", fitted.folder, mixed)
    assert code == 1
    assert err == (
        "error: 2 of 4 images could not be read; the column error says why, and the others are "
        "classified\n"
    )
    assert out.splitlines()[0] == "path,label,probability,error"
    rows = {row["path"]: row for row in read(out)}
    names = ["1.jpg", "2.jpg", "more/1.JPG", "more/3.png"]
    assert list(rows) == [str(mixed / name) for name in names]
    good = [rows[str(mixed / name)] for name in ("1.jpg", "more/1.JPG")]
    bad = [rows[str(mixed / name)] for name in ("2.jpg", "more/3.png")]
    assert all(row["label"] and row["error"] == "" for row in good)
    assert all(row["label"] == row["probability"] == "" for row in bad)
    assert "truncated" in bad[0]["error"]
    assert bad[1]["error"].startswith("cannot be decoded: no format")
    alone = read(bench.safe_jax("predict", fitted.folder, mixed / "1.jpg").out)
    assert alone == good[:1]


def test_csv_has_as_many_columns_as_answers(bench, fitted, tmp_path):
    file = tmp_path / "made" / "answers.csv"
    images = bench.images("test", "blue")[:9]
    code, out, err = bench.safe_jax("predict", fitted.folder, *images, "--top", 3, "--output", file)
    assert (code, out, err) == (0, f"answers: {file}\n", "")
    text = file.read_text()
    assert text.splitlines()[0] == (
        "path,label,probability,error,label_2,probability_2,label_3,probability_3"
    )
    rows = read(text)
    assert [row["path"] for row in rows] == list(map(str, images))
    for row in rows:
        assert len({row["label"], row["label_2"], row["label_3"]}) == 3
        first, second, third = (float(row[f"probability{n}"]) for n in ("", "_2", "_3"))
        assert 1 > first >= second >= third > 0
        assert first + second + third < 1
    # More than there are classes: all of them, which sum to 1.
    every = read(bench.safe_jax("predict", fitted.folder, *images, "--top", 99).out)
    sums = [sum(float(row[f"probability{n}"]) for n in ("", "_2", "_3", "_4")) for row in every]
    np.testing.assert_allclose(sums, 1, atol=3e-6)
    assert [row["label"] for row in every] == [row["label"] for row in rows]


def test_json_lines_have_the_same_answers(bench, fitted, mixed):
    file = mixed.parent / "answers.JSONL"
    ended = bench.safe_jax("predict", fitted.folder, mixed, "--output", file, "--top", 2)
    assert ended.code == 1
    assert ended.out == f"answers: {file}\n"
    found = [json.loads(line) for line in file.read_bytes().splitlines()]
    rows = read(bench.safe_jax("predict", fitted.folder, mixed, "--top", 2).out)
    for one, row in zip(found, rows, strict=True):
        assert {k: "" if x is None else str(x) for k, x in one.items()} == row
        for name in ("probability", "probability_2"):
            assert isinstance(one[name], float) == (one["error"] is None)


def test_a_probability_that_rounds_to_0_is_a_number(tmp_path):
    file = tmp_path / "answers.jsonl"
    odd = os.fsdecode(b"\xff.jpg")
    with Answers(file, top=2) as answers:
        answers.add(answer(odd, np.array([1e-9, 1 - 1e-9]), ("a", "b"), 2, 0))
    (line,) = file.read_text().splitlines()  # which is UTF-8
    found = json.loads(line)
    assert (found["label_2"], found["probability_2"]) == ("a", 0.0)
    assert found["path"] == odd


def test_a_file_name_of_any_bytes_comes_out_as_it_is(bench, fitted, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.jpg")
    shutil.copy(bench.images("test", "red")[0], odd)
    file = tmp_path / "answers.csv"
    assert bench.safe_jax("predict", fitted.folder, odd, "--output", file).code == 0
    assert file.read_bytes().splitlines()[1].startswith(os.fsencode(odd) + b",")


def test_below_the_threshold_a_label_is_empty(bench, fitted):
    images = bench.images("test", "green")[:9]
    without = read(bench.safe_jax("predict", fitted.folder, *images).out)
    sure = sorted(float(row["probability"]) for row in without)
    threshold = (sure[3] + sure[4]) / 2
    found = read(bench.safe_jax("predict", fitted.folder, *images, "--threshold", threshold).out)
    assert sum(row["label"] == "" for row in found) == 4
    for row, before in zip(found, without, strict=True):
        known = float(before["probability"]) >= threshold
        assert row == before | {"label": before["label"] if known else ""}


def test_attention_is_a_picture_for_each_image(bench, fitted, mixed):
    folder = mixed.parent / "attention"
    ended = bench.safe_jax(
        "predict", fitted.folder, mixed, mixed / "1.jpg", mixed / "more" / "*.JPG",
        "--attention", folder,
    )  # fmt: skip
    assert ended.code == 1  # of images that cannot be read there is none
    made = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*"))
    assert made == ["1.JPG.jpg", "1.jpg-2.jpg", "1.jpg.jpg", "more/1.JPG.jpg"]
    for name in made:
        with PIL.Image.open(folder / name) as image:
            assert image.size == (3 * 64 + 2 * 2, 64)  # the image, and under each pool's map


# Other classes.


def test_other_classes_are_answered_by_their_prompts(bench, fitted):
    images = bench.images("test", "red")[:9]
    other = "--classes", "pink, dark grey", "--template", "a photo of a {} thing."
    code, out, err = bench.safe_jax("predict", fitted.folder, *images, *other, "--top", 9)
    assert (code, err) == (0, "")
    assert all({row["label"], row["label_2"]} == {"pink", "dark grey"} for row in read(out))
    assert out == bench.safe_jax("predict", fitted.folder, *images, *other[:2], "--top", 9).out
    # Among the classes that it was fitted on nothing changes.
    same = "--classes", "blue,dark_grey,green,red"
    before, after = (
        read(bench.safe_jax("predict", fitted.folder, *images, *more).out) for more in ((), same)
    )
    assert after == before


@pytest.mark.parametrize(
    ("classes", "template", "said"),
    [
        ("red", "{}", "--classes=red: at least two different names are expected: a,b"),
        ("red,red", "{}", "at least two different names"),
        ("red,", "{}", "at least two different names"),
        ("red,pink", "a photo", "template 'a photo': one {} is expected"),
        ("red," + "pink " * 90, "{}", "shorten the class name or the template"),
    ],
)
def test_classes_that_make_no_sense_are_refused(bench, fitted, classes, template, said):
    image = bench.images("test", "red")[0]
    arguments = "--classes", classes, "--template", template
    code, out, err = bench.safe_jax("predict", fitted.folder, image, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert said in err


def test_a_method_that_learns_each_class_has_no_answer_for_others(bench, tmp_path):
    folder = tmp_path / "probe"
    ended = bench.fit(bench.photos, folder, "--method", "linear_probe", "--shots", 2)
    assert ended.code == 0, ended.err
    images = bench.images("test", "red")[:9]
    code, out, err = bench.safe_jax("predict", folder, *images, "--classes", "red,pink")
    assert (code, out) == (1, "")
    assert err.startswith("error: linear probe learns something of each class")
    assert "fit one of zero_shot, safe, " in err
    # Nor has it a tuned pool to show.
    code, _, err = bench.safe_jax("predict", folder, *images, "--attention", tmp_path / "att")
    assert code == 0
    assert err == "no pool was tuned: pictures show the original pool's attention\n"
    with PIL.Image.open(tmp_path / "att" / f"{images[0].name}.jpg") as image:
        assert image.size == (2 * 64 + 2, 64)


# Which images, and which files.


def test_globs_name_files(bench, fitted, mixed):
    for pattern, names in {
        "*.jpg": ["1.jpg", "2.jpg"], "**/*.JPG": ["more/1.JPG"],
        "more/[0-9].*": ["more/1.JPG", "more/3.png"],
    }.items():  # fmt: skip
        rows = read(bench.safe_jax("predict", fitted.folder, mixed / pattern).out)
        assert [row["path"] for row in rows] == [str(mixed / name) for name in names]
    (mixed / "[1].jpg").write_bytes((mixed / "1.jpg").read_bytes())  # a name, not a pattern
    (row,) = read(bench.safe_jax("predict", fitted.folder, mixed / "[1].jpg").out)
    assert row["path"] == str(mixed / "[1].jpg")


def test_an_image_that_is_missing_has_a_row(bench, fitted, tmp_path):
    ended = bench.safe_jax("predict", fitted.folder, tmp_path / "absent.jpg")
    assert ended.code == 1
    assert read(ended.out) == [
        {"path": str(tmp_path / "absent.jpg"), "label": "", "probability": "", "error": "missing"}
    ]


def test_what_cannot_be_done_is_said_in_one_line(bench, fitted, mixed, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "answers.csv").mkdir()
    image = mixed / "1.jpg"
    for arguments, said in (
        ((fitted.folder, tmp_path / "empty"), "no image is in this folder (.avif, "),
        ((fitted.folder, mixed / "*.webp"), "no file fits this pattern"),
        ((tmp_path / "absent", image), "absent holds no classifier (classifier.json): make one"),
        ((mixed, image), "mixed holds no classifier"),
        ((image, image), "1.jpg holds no classifier"),
        (("gs://bucket/pets", image), "gs://bucket/pets: a path on a disk is expected"),
        ((fitted.folder, image, "--output", "answers.txt"), "with .csv or .jsonl is expected"),
        ((fitted.folder, image, "--output", tmp_path / "answers.csv"), "answers.csv is a folder"),
        ((fitted.folder, image, "--output", image / "answers.csv"), "1.jpg"),
        ((fitted.folder, image, "--output", "gs://bucket/a.csv"), "a path on a disk is expected"),
        ((fitted.folder, image, "--attention", image), "1.jpg"),
    ):
        code, out, err = bench.safe_jax("predict", *arguments)
        assert (code, out) == (1, ""), arguments
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1


def test_an_image_of_another_kind_is_converted_or_refused(bench, fitted, tmp_path):
    picture(80, 70, "L").save(tmp_path / "grey.png")
    picture(900, 2).save(tmp_path / "strip.png")
    grey, strip = read(bench.safe_jax("predict", fitted.folder, tmp_path).out)
    assert grey["label"]
    assert strip["error"].startswith("an image of 900 x 2 px")
