"""`safe-jax fit`: what it makes, says and leaves out; what it refuses, and when."""

import json
import os
import shutil

import pytest

from safe_jax.data import images

CLASSES = ["blue", "dark_grey", "green", "red"]


def described(folder):
    return json.loads((folder / "classifier.json").read_text())


def lines_of(rows):
    """A CSV file of paths and labels."""
    return "".join(f"{path},{label}\n" for path, label in [("path", "label"), *rows])


def test_the_classifier_and_what_is_said_of_it(fitted):
    code, out, err = fitted.ended
    assert code == 0
    content = described(fitted.folder)
    making = content["making"]
    assert sorted(file.name for file in fitted.folder.iterdir()) == [
        "README.md", "classifier.json", "model.safetensors",
    ]  # fmt: skip
    assert (content["method"], content["classes"]) == ("safe", CLASSES)
    assert content["prompts"][1] == ["a photo of a dark grey thing."]
    assert (making["shots"], making["train_images"], making["val_images"]) == (8, 32, 16)
    assert making["temperature_images"] == 24  # all of val, where 4 of each class choose alpha
    assert len(making["seen"]) == 32 + 24
    assert [one["learning_rate"] for one in making["candidates"]] == [0.001, 0.003]
    assert out.splitlines()[0] == (
        "SAFE on clip_tiny: 4 classes, 32 training and 16 validation images"
    )
    assert f"chosen: learning rate {making['learning_rate']:g}, alpha {content['alpha']:g}" in out
    assert f"right on {making['val_accuracy']:.2f} % of the validation images" in out
    assert making["val_accuracy"] > making["val_accuracy_zero_shot"] == 25
    assert out.endswith(f"classifier: {fitted.folder}\n")
    # A CLIP of random weights: zero-shot is at chance, which whoever uses it should know.
    said = "these weights do not know these classes, as far as 48 images can tell: zero-shot is"
    assert said in err
    assert making["notes"] == [note for note in making["notes"] if said in note] != []
    assert said in (fitted.folder / "README.md").read_text()


# A list with everything that can be mended by leaving it out.


@pytest.fixture(scope="module")
def awkward(bench, tmp_path_factory):
    """A list with unreadable images, with copies, and with a class of one image; no splits."""
    root = tmp_path_factory.mktemp("awkward")
    rows = [("absent.jpg", "red"), ("cut.jpg", "green"), ("blue.jpg", "blue")]
    shutil.copy(bench.images("train", "blue")[0], root / "blue.jpg")
    (root / "cut.jpg").write_bytes(bench.images("train", "green")[9].read_bytes()[:900])
    for name, copies in (("red", 1), ("green", 2)):
        for number, file in enumerate(bench.images("train", name)[:5]):
            for copy in range(copies):
                path = f"{name}-{number}-{copy}.jpg"
                shutil.copy(file, root / path)
                rows.append((path, name))
    file = root / os.fsdecode(b"l\xefst.csv")  # a name in Latin-1
    file.write_text(lines_of(rows))
    return file


@pytest.fixture(scope="module")
def of_awkward(bench, awkward, tmp_path_factory):
    """A classifier of it that is tuned at rate 0, so that it stays what it was."""
    folder = tmp_path_factory.mktemp("of_awkward") / "classifier"
    ended = bench.fit(awkward, folder, "--learning-rates", 0)
    assert ended.code == 0, ended.err
    return folder, ended


def test_unreadable_images_are_left_out_and_listed(of_awkward):
    _, ended = of_awkward
    at = ended.err.index("2 images cannot be used, and will be left out:")
    listed = ended.err[at:].splitlines()[1:3]
    assert listed[0] == "  absent.jpg: missing"
    assert listed[1].startswith("  cut.jpg: cannot be decoded: ")


def test_a_class_of_one_image_trains_and_copies_do_not_validate(of_awkward):
    folder, ended = of_awkward
    making = described(folder)["making"]
    # Of 5 red images 1 validates, of 10 green 2, of which copies train as well.
    assert "2 of 3 validation images are copies of training images (same bytes)" in ended.err
    assert (making["train_images"], making["val_images"]) == (1 + 4 + 8, 1)
    assert len(making["seen"]) == 1 + 5 + 5  # digests of what differs
    assert making["dataset"] == r"l\udcefst"
    assert "3 classes, 13 training and 1 validation images" in ended.out


def test_what_does_not_beat_zero_shot_stays_zero_shot_and_says_so(of_awkward):
    folder, ended = of_awkward
    content = described(folder)
    assert (content["alpha"], content["making"]["learning_rate"]) == (0, 0)
    said = (
        "on 1 validation images SAFE (100.00 %) does not beat zero-shot (100.00 %): alpha 0 is "
        "kept, which is zero-shot CLIP"
    )
    assert said in ended.err
    assert said in content["making"]["notes"][-1]
    assert said in (folder / "README.md").read_text()


def test_strict_leaves_nothing_out(bench, awkward, tmp_path):
    code, out, err = bench.fit(awkward, tmp_path / "strict", "--strict")
    assert (code, out) == (1, "")
    assert err.startswith("error: 2 images cannot be used:\n  absent.jpg: missing\n  cut.jpg: ")
    assert not any(tmp_path.iterdir())


def test_without_validation_nothing_is_chosen(bench, tmp_path):
    rows = [(bench.images("train", name)[0], name) for name in CLASSES]
    (tmp_path / "list.csv").write_text(lines_of(rows))
    code, out, err = bench.fit(
        tmp_path / "list.csv", tmp_path / "one", "--image-dir", "/",
        "--learning-rates", "1e-3,1e-2",
    )  # fmt: skip
    assert code == 0
    assert "no validation image chooses a learning rate: the first is taken" in err
    assert "no validation image: nothing was chosen, and how good it is was not measured" in err
    assert "4 training and 0 validation images" in out
    assert "taken: learning rate 0.001, alpha 0.5, temperature 1\n" in out
    making = described(tmp_path / "one")["making"]
    assert (making["selection"], making["val_accuracy"]) == ("fixed", None)


# What is refused.


def test_an_existing_output_is_refused_before_any_work(bench, tmp_path, monkeypatch):
    def worked(*_):
        raise AssertionError

    monkeypatch.setattr(images, "why_unreadable", worked)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    for output, said in {
        tmp_path / "there": "there exists already: remove it, or choose another folder",
        tmp_path / "file": "file exists already",
        tmp_path / "file" / "below": "file is no folder; name another",
        "gs://bucket/pets": "gs://bucket/pets: a path on a disk is expected",
    }.items():
        code, out, err = bench.fit(bench.photos, output)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", -1), "--seed=-1: at least 0"),
        (("--learning-rates", "1,1"), "--learning-rates=(1.0, 1.0): different values are expected"),
        (("--learning-rates", "1,-1"), "--learning-rates[1]=-1.0: at least 0 and"),
        (("--learning-rates", "1e30"), "no finite logits: lower the learning rate"),
        (("--template", "a photo"), "template 'a photo': one {} is expected"),
        (("--template", "{}" + " very" * 90), "shorten the class name or the template"),
        (("--weights", "RN5"), "or use one of RN50"),
        (("--image-dir", "x"), "--image-dir is for lists"),
        (("--cache-dir", "gs://bucket/cache"), "a folder on a disk of this machine"),
    ],
)
def test_a_mistake_in_arguments_has_one_line(bench, tmp_path, arguments, said):
    code, out, err = bench.fit(bench.photos, tmp_path / "out", "--shots", 2, *arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err.splitlines()[-1]
    assert not any(tmp_path.iterdir())
    tuning = bench.cache / "tuning"
    assert not [path for path in tuning.glob("*") if path.is_dir()]  # what diverged is not resumed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label\n{red},a\n", "at least two classes are expected, not 1"),
        ("path,label\n{red},a\n{red},b\n", "lists 1 images more than once"),
        (
            "path,label\n{red},a\n{blue},b\nabsent.jpg,c\n",
            "no usable training image of 1 class:",
        ),
        ("path,label,split\n{red},a,val\n{blue},b,val\n", "no training image of 2 classes"),
        ("path,label,split\n{red},a,test\n{blue},b,test\n", "no training image of 2 classes"),
        ("path,label,split\n{red},a,\n{copy},b,\n", "are the same picture, labelled 'a' and 'b'"),
        ("file,label\n{red},a\n", "missing: path"),
    ],
)
def test_images_that_make_no_classifier_are_refused(bench, tmp_path, content, said):
    shutil.copy(bench.images("train", "red")[0], tmp_path / "copy.jpg")
    file = tmp_path / "list.csv"
    file.write_text(
        content.format(
            red=bench.images("train", "red")[0], blue=bench.images("train", "blue")[0],
            copy=tmp_path / "copy.jpg",
        )
    )  # fmt: skip
    code, out, err = bench.fit(file, tmp_path / "out", "--image-dir", "/")
    assert (code, out) == (1, "")
    assert said in err[err.index("error: ") :]
    assert not (tmp_path / "out").exists()
