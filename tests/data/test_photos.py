"""A user's labelled images: folders, CSV files, split files, Python lists; and what is wrong."""

import collections
import json
import os
import re

import numpy as np
import PIL.Image
import pytest

from safe_jax.data import images, photos
from safe_jax.data.photos import Photos
from safe_jax.data.records import Record, hold_out_val
from safe_jax.runtime.errors import InputError
from tests.data.image_files import picture
from tests.data.listings import touch


def write(file, *lines, encoding="utf-8"):
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return file


def listed(found):
    """The paths and class names of each part."""
    return {name: [(r.path, r.classname) for r in part] for name, part in found.parts.items()}


# Folders.


def test_a_folder_of_classes_is_all_to_train(tmp_path):
    touch(tmp_path / "pets", "cat_10/1.JPG", "cat_2/1.png", "cat_2/2.png", "cat_2/notes.txt")
    found = photos.read(tmp_path / "pets")
    assert (found.name, found.classes) == ("pets", ["cat_2", "cat_10"])
    assert listed(found) == {
        "train": [("cat_2/1.png", "cat_2"), ("cat_2/2.png", "cat_2"), ("cat_10/1.JPG", "cat_10")]
    }
    assert [record.label for record in found.records] == [0, 0, 1]
    assert all((found.image_dir / record.path).exists() for record in found.records)


def test_a_folder_of_splits_stays_divided(tmp_path):
    touch(
        tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "valid", "test") for name in "ab")
    )
    found = photos.read(tmp_path)
    assert {name: len(part) for name, part in found.parts.items()} == {
        "train": 2, "val": 2, "test": 2,
    }  # fmt: skip
    assert [record.path for record in found.parts["val"]] == ["valid/a/1.png", "valid/b/1.png"]
    assert len(found.records) == 6


def test_a_folders_name_may_be_any_bytes(tmp_path):
    """The name becomes a part of files that are UTF-8."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/pets\xff")
    os.makedirs(folder)
    touch(type(tmp_path)(folder), "a/1.png", "b/1.png")
    assert photos.read(type(tmp_path)(folder)).name == r"pets\udcff"


@pytest.mark.parametrize("name", ["absent", "a/1.png", "x" * 5000])
def test_what_is_no_list_of_images_is_refused(tmp_path, name):
    touch(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(InputError, match=r"a folder.* a CSV file|a \.csv or a \.json file"):
        photos.read(tmp_path / name)


def test_an_image_dir_belongs_to_a_list(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(InputError, match="--image-dir is for lists"):
        photos.read(tmp_path, tmp_path)
    file = write(tmp_path / "list.csv", "path,label", "1.png,a")
    with pytest.raises(InputError, match=r"--image-dir=.*absent: no such folder"):
        photos.read(file, tmp_path / "absent")
    assert photos.read(file, tmp_path / "a").image_dir == tmp_path / "a"
    assert photos.read(file).image_dir == tmp_path


# CSV files.


def test_a_csv_file_of_windows_is_read(tmp_path):
    """A byte-order mark, lines that end in CR LF, quotes, blanks, empty lines, more columns."""
    file = tmp_path / "Pets.CSV"
    file.write_bytes(
        b'\xef\xbb\xbfnumber,path,label\r\n1,"a, b.jpg", cat 10 \r\n\r\n2,\xc3\xa4.jpg,cat 2,\r\n'
    )
    found = photos.read(file)
    assert (found.name, found.classes) == ("Pets", ["cat 2", "cat 10"])
    assert listed(found) == {"train": [("a, b.jpg", "cat 10"), ("ä.jpg", "cat 2")]}


def test_a_csv_file_may_divide_its_images(tmp_path):
    file = write(
        tmp_path / "list.csv",
        "path,label,split", "1,a,train", "2,b,", "3,a,val", "4,b,test", "5,a, ",
    )  # fmt: skip
    found = photos.read(file)
    assert listed(found) == {
        "train": [("1", "a"), ("2", "b"), ("5", "a")], "val": [("3", "a")], "test": [("4", "b")],
    }  # fmt: skip
    assert [record.label for record in found.records] == [0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "first line must name the columns path and label .*; missing: path, label"),
        (["file,label", "1,a"], "missing: path$"),
        (["path;label", "1;a"], "missing: path, label"),
        (["path,label"], "list.csv lists no image"),
        (["path,label", "1,a", "2,"], "line 3: the label is empty"),
        (["path,label", "1,a", "", "2"], "line 4: the label is empty"),
        (["path,label", " ,a"], "line 2: the path is empty"),
        (["path,label", "1,a", "2,b", "1,a"], "lists 1 images more than once:\n  1$"),
        (["path,label,split", "1,a,dev"], "line 2: split=dev: train, val or test expected"),
        (["path,label", "1,a", "cat, small.jpg,b"], "line 3: more values than .* put quotes"),
        (["path,label", "1,a", '"2,b', "3,a", "4,b"], "line 3: unexpected end of data"),
        (["path,label", '"1"x,a'], "line 2: ',' expected after"),
        (["path,label", "1,a_b", "2,a b"], "a class is spelled in several ways: a b, a_b"),
        (["path,label", "1\0,a"], "UTF-8 is expected, not bytes that are 0"),
        (["path,label", "1,a", "2,\u200b"], r"label '\\u200b': a class name is expected"),
        (["path,label,path", "1,a,2"], "its first line names path twice"),
        (["path,label", "1,a", "./1,b"], "lists 1 images more than once:\n  1$"),
        (
            ["path,label", "../1,a", "/etc/x,b"],
            r"2 paths lead out .* may be /\):\n  \.\./1\n  /e",
        ),
        (["path,label", "..\\1,a"], "1 paths lead out of the folder of the images"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said(tmp_path, lines, said):
    file = write(tmp_path / "list.csv", *lines)
    with pytest.raises(InputError, match=said) as caught:
        photos.read(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_a_csv_file_in_another_encoding_is_refused(tmp_path, encoding):
    file = write(tmp_path / "list.csv", "path,label", "ä.jpg,a", encoding=encoding)
    with pytest.raises(InputError, match=r"list\.csv: UTF-8 is expected"):
        photos.read(file)


# Split files.


def test_a_split_file_has_its_images_elsewhere(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "split.json"
    rows = {"train": [["1", 0, "b"], ["2", 1, "a"]], "val": [], "test": [["3", 1, "a"]]}
    file.write_text(json.dumps(rows))
    found = photos.read(file, tmp_path / "images")
    assert (found.name, found.classes) == ("split", ["b", "a"])  # by label
    assert found.image_dir == tmp_path / "images"
    assert listed(found) == {"train": [("1", "b"), ("2", "a")], "test": [("3", "a")]}
    rows["train"][0][1] = 5
    file.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"split\.json: labels must be 0 to 1, each used"):
        photos.read(file)


# Python lists.


def test_lists_of_paths_pictures_and_arrays(tmp_path, monkeypatch):
    picture(30, 20).save(tmp_path / "1.png")
    monkeypatch.chdir(tmp_path)
    grey = np.asarray(picture(30, 20, "L"))
    sources = ["1.png", tmp_path / "1.png", picture(30, 20), np.asarray(picture(30, 20)), grey]
    found = photos.of_lists(iter(sources), np.array(["b", "b", "a", "a", "b"]))
    assert found.classes == ["a", "b"]
    # What is there twice counts once: a file by its path, a picture by its pixels.
    assert [record.classname for record in found.parts["train"]] == ["b", "a", "b"]
    assert all(isinstance(name, str) for name in found.classes)
    sizes = []
    for record in found.records:
        with images.opened(found.image_dir / record.path) as image:
            sizes.append((image.mode, image.size))
    assert sizes == [("RGB", (30, 20)), ("RGB", (30, 20)), ("L", (30, 20))]


def test_pictures_that_differ_in_their_palette_alone_are_two():
    red, blue = PIL.Image.new("P", (9, 9)), PIL.Image.new("P", (9, 9))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    found = photos.of_lists([red, blue], ["red", "blue"])
    assert len({record.path for record in found.records}) == 2


@pytest.mark.parametrize(
    ("sources", "labels", "said"),
    [
        (["1", "2"], ["a"], "a label for each image is expected: 2 and 1"),
        (["1", "1"], ["a", "b"], "/1 is labelled both 'a' and 'b'"),
        ([np.zeros((9, 9, 3), np.uint8)] * 2, ["a", "b"], "memory/.* is labelled both"),
        ([np.zeros((9, 9, 3))], ["a"], r"an array of float64 \(9, 9, 3\): uint8 is expected"),
        ([np.zeros((9, 9, 2), np.uint8)], ["a"], r"an array of uint8 \(9, 9, 2\): uint8 is"),
        ([np.zeros((2, 9, 9, 3), np.uint8)], ["a"], r"an array of uint8 \(2, 9, 9, 3\)"),
        ([np.zeros(9, np.uint8)], ["a"], r"an array of uint8 \(9,\)"),
        ([b"1"], ["a"], "bytes: an image is expected as a path, a Pillow image or an array"),
        (["1", "2"], ["a", 3], "label 3: a class name is expected"),
        (["1", "2"], ["a", None], "label None: a class name is expected"),
        (["1", "2"], ["a", " "], "label ' ': a class name is expected"),
        (["1", "2"], ["a b", "a_b"], "spelled in several ways: a b, a_b"),
        (["s3://bucket/1"], ["a"], "a path on a disk, or in a bucket"),
    ],
)
def test_what_is_wrong_with_lists_is_said(sources, labels, said):
    with pytest.raises(InputError, match=said):
        photos.of_lists(sources, labels)


# Whether images can be used, and copies.


def test_every_image_is_examined_and_reasons_are_given(tmp_path, caplog):
    picture(90, 80).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "copy.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    odd = os.fsdecode(b"\xff.jpg")
    (tmp_path / odd).write_bytes(content)
    names = ["cut.jpg", "whole.jpg", "text.jpg", "copy.jpg", "folder.jpg", "absent.jpg", odd]
    records = [Record(name, 0, "a") for name in names]
    given = Photos("x", tmp_path, {"train": records[:3], "val": records[3:]}, ["a"])
    found, digests = photos.examine(given, "skip", workers=2)
    assert listed(found) == {"train": [("whole.jpg", "a")], "val": [("copy.jpg", "a")]}
    assert digests.keys() == {"whole.jpg", "copy.jpg"}
    assert digests["whole.jpg"] == digests["copy.jpg"]
    _, *lines = caplog.messages[0].splitlines()
    for line, said in zip(
        lines,
        [
            "cut.jpg: .*truncated", "text.jpg: .*no format", "folder.jpg: a folder, where",
            "absent.jpg: missing", ".*: its name is not valid UTF-8",
        ],
        strict=True,
    ):  # fmt: skip
        assert re.match("  " + said, line)
    with pytest.raises(InputError, match="5 images cannot be used:\n  cut"):
        photos.examine(given, "refuse", workers=2)


def test_images_in_memory_are_examined_as_files_are(caplog):
    strip = np.zeros((2, 900), np.uint8)
    given = photos.of_lists([picture(9, 8), picture(9, 9), strip], ["a", "b", "b"])
    found, digests = photos.examine(given, "skip", workers=1)
    assert [record.classname for record in found.records] == ["a", "b"]
    assert "an image of 900 x 2 px" in caplog.text
    assert len(digests) == 2


def photos_of(**parts):
    """Photos whose paths begin with the letter of their bytes: `x1` is a copy of `x2`."""
    made = {
        name: [Record(path, int(path[0] > "m"), "nz"[path[0] > "m"]) for path in paths]
        for name, paths in parts.items()
    }
    given = Photos("pets", None, made, ["n", "z"])
    return given, {record.path: record.path[0] for record in given.records}


def test_copies_of_training_images_leave_validation(caplog):
    given, digests = photos_of(train=["a1", "b1", "a2", "x1"], val=["a3", "c1", "x2", "c2"])
    found = photos.without_copies(given, digests)
    assert listed(found)["train"] == listed(given)["train"]
    assert [record.path for record in found.parts["val"]] == ["c1", "c2"]
    assert "2 of 4 validation images are copies of training images" in caplog.text


def test_without_copies_nothing_changes_and_nothing_is_said(caplog):
    for parts in ({"train": ["a1", "x1"], "val": ["b1"]}, {"train": ["a1"]}, {"val": ["a1", "a2"]}):
        given, digests = photos_of(**parts)
        assert photos.without_copies(given, digests) == given
    assert caplog.text == ""


def test_copies_with_different_labels_are_refused():
    given, digests = photos_of(train=["a1", "x1"], val=["x2"])
    with pytest.raises(InputError, match="a1 and x2 are the same picture, labelled 'n' and 'z'"):
        photos.without_copies(given, digests | {"x2": "a"})


@pytest.mark.parametrize(
    ("parts", "name", "paths"),
    [
        ({"train": ["a"], "val": ["b"], "test": ["c", "x"]}, "test", ["c", "x"]),
        ({"train": ["a"], "val": ["b"], "test": []}, "val", ["b"]),
        ({"train": ["a", "x"]}, "all", ["a", "x"]),
    ],
)
def test_evaluation_is_on_what_was_set_aside(parts, name, paths):
    given, _ = photos_of(**parts)
    found, records = photos.to_evaluate(given)
    assert (found, [record.path for record in records]) == (name, paths)


# Validation images, drawn from those to train.


def test_a_fifth_of_each_class_is_held_out_always_the_same():
    counts = {0: 1, 1: 2, 2: 5, 3: 12, 4: 100}
    records = [Record(f"{label}/{n}", label, "c") for label, k in counts.items() for n in range(k)]
    train, val = hold_out_val(records)
    assert sorted(train + val) == sorted(records)
    held = collections.Counter(record.label for record in val)
    assert held == {1: 1, 2: 1, 3: 2, 4: 20}  # a class of one trains only
    assert hold_out_val(records) == (train, val)
    assert hold_out_val([]) == ([], [])
    # Not merely the first ones: they may be frames of one video.
    assert [record.path for record in val if record.label == 4] != sorted(
        record.path for record in records if record.label == 4
    )[:20]
