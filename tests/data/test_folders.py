"""A user's folder: its classes, its splits, and what can be wrong with it."""

import os

import pytest

from configs import folder
from safe_jax.data import datasets
from safe_jax.runtime.errors import InputError
from tests.data.listings import touch


def load_folder(root):
    config = folder.get_config()
    config.image_dir = str(root)
    return datasets.load(datasets.read_settings(config))


def test_folders_of_classes_are_divided_always_alike(tmp_path, caplog):
    root = tmp_path / "My pets"
    for name in ("cat_10", "cat_2", "Dog"):
        touch(root, *(f"{name}/{n}.JPG" for n in range(20)), f"{name}/.x.jpg", f"{name}/notes.txt")
    touch(root, ".hidden/1.jpg", "README.md")
    data = load_folder(root)
    assert "My pets: 3 files whose names are not those of images are ignored" in caplog.text
    assert data.name == "My pets"
    assert data.classnames == ("cat 2", "cat 10", "Dog")
    assert data.prompts[1] == ("a photo of a cat 10.",)
    assert [len(part) for part in data.splits] == [30, 12, 18]  # 50, 20 and 30 %
    assert len({record.path for part in data.splits for record in part}) == 60
    assert load_folder(root) == data
    assert all((data.image_dir / r.path).exists() for part in data.splits for r in part)


def test_a_folder_may_be_called_as_one_of_the_benchmark(tmp_path, monkeypatch):
    touch(tmp_path / "dtd", *(f"{name}/{n}.png" for name in "ab" for n in range(3)))
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load_folder("~/dtd")
    assert (data.name, data.prompts[0]) == ("dtd", ("a photo of a a.",))
    assert [len(part) for part in data.splits] == [2, 2, 2]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val", "test"), [20, 20, 20]),
        (("train", "test"), [16, 4, 20]),  # val is drawn from train
        (("train", "valid"), [16, 4, 20]),  # val is what is reported
    ],
)
def test_folders_of_splits_are_taken_as_they_are(tmp_path, parts, sizes):
    for part in parts:
        touch(tmp_path, *(f"{part}/{name}/{n}.png" for name in "ab" for n in range(10)))
    splits = load_folder(tmp_path).splits
    assert [len(part) for part in splits] == sizes
    assert {record.path.split("/")[0] for record in splits.train} == {"train"}
    assert {record.path.split("/")[0] for record in splits.test} == {parts[-1]}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "at least two classes is expected, not 0"),
        (["train/a/1.png"], "at least two classes is expected in train/, not 1"),
        (["a/1.png", "b/notes.txt"], "1 class folders hold no image .*:\n.*/b$"),
        (["a/1.png", "a/2.png", "b/1.png", "b/2.png"], "2 classes have fewer than 3 images"),
        (["train/a/1.png", "train/b/1.png", "test/a/2.png"], "fewer than 2 .* train, val:\n  a"),
        (["Train/a/1.png", "Train/b/1.png", "Test/a/2.png"], "fewer than 2 .* train, val:\n  a"),
        (["train/a/1.png", "train/b/1.png", "tset/a/2.png"], "only val/ and test/ .*, not tset/"),
        (["train/a/1.png", "train/b/1.png", "test/c/2.png"], "1 class .* not in train:\n.*test/c"),
        (["train/a/1", "train/b/1", "val/a/1", "valid/a/1"], "two folders are for val"),
        (["a_b/1.png", "a b/1.png"], "two folders each are for a b; rename one"),
    ],
)
def test_what_is_wrong_with_folders_is_said(tmp_path, files, said):
    touch(tmp_path / "root", *files)
    (tmp_path / "root").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=said):
        load_folder(tmp_path / "root")
    with pytest.raises(InputError, match="no such folder; "):
        load_folder(tmp_path / "absent")


def test_a_split_without_class_folders_is_refused_not_drawn_anew(tmp_path):
    touch(tmp_path, *(f"train/{name}/{n}.png" for name in "ab" for n in range(5)))
    touch(tmp_path, "test/1.png", "test/2.png")
    with pytest.raises(InputError, match="test holds 2 images but no class folders"):
        load_folder(tmp_path)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    touch(tmp_path, *(f"{name}/{n}.png" for name in ("bus", "test", "train") for n in range(5)))
    assert load_folder(tmp_path).classnames == ("bus", "test", "train")
    root = tmp_path / "divided"
    touch(root, *(f"{part}/{name}/{n}.png" for part in ("train", "test")
                  for name in ("car", "train") for n in range(5)))  # fmt: skip
    data = load_folder(root)
    assert data.classnames == ("car", "train")
    assert [len(part) for part in data.splits] == [8, 2, 10]


@pytest.mark.parametrize("words", [("training_set", "test_set"), ("Training", "TESTING")])
def test_splits_go_by_other_words_too(tmp_path, words):
    train, test = words
    touch(tmp_path, *(f"{part}/{name}/{n}.png" for part in (train, test) for name in "ab"
                      for n in range(10)))  # fmt: skip
    assert [len(part) for part in load_folder(tmp_path).splits] == [16, 4, 20]


def test_images_in_folders_of_a_class_are_its(tmp_path, caplog):
    touch(tmp_path, *(f"cup/{below}/{n}.png" for below in "xy" for n in range(5)))
    touch(tmp_path, *(f"fork/{n}.png" for n in range(5)), "fork/more/6.png", "fork/.x/7.png")
    records = [record for part in load_folder(tmp_path).splits for record in part]
    assert sorted(record.path for record in records if record.classname == "fork")[-1] == (
        "fork/more/6.png"
    )
    assert len(records) == 16
    assert "11 images lie in folders below those of their classes, such as cup/" in caplog.text


def test_what_is_no_image_is_told_by_its_kind(tmp_path, caplog):
    touch(tmp_path, *(f"{name}/{n}.png" for name in "ab" for n in range(5)))
    touch(tmp_path, "a/1.HEIC", "a/2.heic", "b/notes.txt", "loose.png")
    load_folder(tmp_path)
    assert "3 files whose names are not those of images are ignored" in caplog.text
    assert "2 x .heic, 1 x .txt; photos in HEIC have to be converted first" in caplog.text
    assert "1 images lie in no class folder" in caplog.text
    touch(tmp_path, "c/1.heic")
    with pytest.raises(InputError, match=r"1 class folders hold no image .*HEIC"):
        load_folder(tmp_path)


def test_names_that_are_not_utf8_are_refused_before_any_work(tmp_path):
    touch(tmp_path, *(f"{name}/{n}.png" for name in "ab" for n in range(5)))
    odd = os.fsencode(tmp_path / "a") + b"/caf\xe9.png"
    with open(odd, "wb"):
        pass
    with pytest.raises(InputError, match=r"1 images have names that are not UTF-8.*\n.*caf"):
        load_folder(tmp_path)
    os.remove(odd)
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match="the names of 1 class folders are not UTF-8"):
        load_folder(tmp_path)


def test_classes_with_the_same_prompt_are_warned_of(tmp_path, caplog):
    touch(tmp_path, *(f"{name}/{n}.png" for name in ("Cup", "cup", "fork") for n in range(5)))
    load_folder(tmp_path)
    assert "Cup, cup have the same prompts" in caplog.text


# Class names apart from folders' names.

CLASSES = "001.Cat", "002.Dog", "003.Red Fox"


def numbered(root, **files):
    """A folder of three classes whose names begin with numbers, and files beside them."""
    touch(root, *(f"{name}/{n}.png" for name in CLASSES for n in range(5)))
    for name, content in files.items():
        (root / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "files",
    [
        {"classnames_txt": "001.Cat house cat\n002.Dog\tsmall dog\n003.Red Fox fox\n"},
        {"classnames_txt": "\ufefffolder,name\n001.Cat, house_cat\n\n002.Dog,small dog\n"
                           "003.Red Fox,fox"},
        {"classnames_csv": 'folder,name\r\n003.Red Fox,fox\r\n001.Cat,"house cat"\r\n'
                           "002.Dog,small dog\r\n"},
        {"classnames_csv": "003.Red Fox,fox\n001.Cat,house cat\n002.Dog,small dog\n"},
    ],
)  # fmt: skip
def test_a_file_beside_the_folders_names_the_classes(tmp_path, files, caplog):
    data = load_folder(numbered(tmp_path, **files))
    assert data.classnames == ("house cat", "small dog", "fox")
    assert data.prompts[0] == ("a photo of a house cat.",)
    assert data.splits.train[-1][1:] == (2, "fox")
    assert not caplog.messages


def test_a_file_of_class_names_may_be_in_train(tmp_path):
    for part in ("train", "test"):
        numbered(tmp_path / part)
    (tmp_path / "train" / "classnames.txt").write_text("001.Cat cat\n002.Dog dog\n003.Red Fox fox")
    assert load_folder(tmp_path).classnames == ("cat", "dog", "fox")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"classnames_txt": "001.Cat\n"}, "line 1: a folder and its class name are expected"),
        ({"classnames_txt": "001.Cat cat\n001.Cat dog"}, "line 2: the folder 001.Cat is there tw"),
        ({"classnames_txt": "01.Cat cat\n"}, r"line 1: .* '01.Cat' \(did you mean 001.Cat\?\)"),
        ({"classnames_txt": "001.Cat a\n002.Dog a"}, "several folders are called a; rename"),
        ({"classnames_txt": "001.Cat a_b\n002.Dog a b"}, "several folders are called a b; rename"),
        ({"classnames_txt": "001.Cat \u200b"}, "line 1: a folder and its class name are expected"),
        ({"classnames_txt": "a b", "classnames_csv": "a,b"}, "keep one file of class names"),
        ({"classnames_csv": "001.Cat\n"}, "line 1: a folder and its class name are expected"),
        ({"classnames_csv": "001.Cat,a,b\n"}, "line 1: a folder and its class name are expected"),
        ({"classnames_csv": "001.Cat,\n"}, "line 1: a folder and its class name are expected"),
        ({"classnames_csv": '001.Cat,"a\n'}, "classnames.csv, line 1: unexpected end of data"),
    ],
)
def test_what_is_wrong_with_a_file_of_class_names_is_said(tmp_path, files, said):
    with pytest.raises(InputError, match=said):
        load_folder(numbered(tmp_path, **files))


def test_folders_that_the_file_does_not_name_are_told_of(tmp_path, caplog):
    data = load_folder(numbered(tmp_path, classnames_txt="001.Cat cat\n"))
    assert data.classnames == ("cat", "002.Dog", "003.Red Fox")
    assert "does not name 2 of 3 class folders, such as 002.Dog" in caplog.text


@pytest.mark.parametrize(
    ("names", "hinted"),
    [
        (CLASSES, True), (("1", "2"), True), (("n01440764", "n01443537"), True),
        (("7up", "cat"), False), (("cat_1", "cat_2"), False), (("1_a", "b", "c"), False),
    ],
)  # fmt: skip
def test_names_that_begin_with_numbers_get_a_hint(tmp_path, names, hinted, caplog):
    touch(tmp_path, *(f"{name}/{n}.png" for name in names for n in range(3)))
    load_folder(tmp_path)
    assert (f"name them in {tmp_path}/classnames.txt" in caplog.text) == hinted
