"""Where the paths of lists lead, and paths that lead to no file: refused, and never waited for."""

import os
import socket

import pytest

from safe_jax.data import folders, imagenet, photos, places, prompts, readable
from safe_jax.data.records import read_split_file
from safe_jax.runtime.errors import InputError
from tests.data.image_files import picture
from tests.data.listings import touch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`images/cat/1.jpg`, with links in it that lead within the folder and out of it."""
    root = tmp_path_factory.mktemp("places")
    touch(root, "images/cat/1.jpg", "images/a..b/1.jpg", "outside.jpg")
    os.symlink("../outside.jpg", root / "images" / "link.jpg")
    return root


INSIDE = {
    "cat/1.jpg": "cat/1.jpg",
    "cat\\1.jpg": "cat/1.jpg",  # a list of Windows
    "cat\\2.jpg": "cat\\2.jpg",  # as it is told, since neither is there
    "./cat/1.jpg": "./cat/1.jpg",
    "cat/../cat/1.jpg": "cat/1.jpg",
    "cat\\..\\cat\\1.jpg": "cat/1.jpg",
    "a..b/1.jpg": "a..b/1.jpg",
    "10:30.jpg": "10:30.jpg",
    "link.jpg": "link.jpg",  # the owner of the folder made it
    "{root}/images/cat/1.jpg": "cat/1.jpg",
    "x\\" * 3000: "x\\" * 3000,  # which the system refuses as too long
}


@pytest.mark.parametrize("given", INSIDE)
def test_paths_under_the_folder_are_taken(root, given):
    path = given.replace("{root}", str(root))
    assert places.under(root / "images", [path], "list") == {path: INSIDE[given]}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../outside.jpg", "cat/../../outside.jpg", "..", "..\\outside.jpg",
        "cat\\..\\..\\outside.jpg", "C:\\cat.jpg", "c:/cat.jpg", "\\\\server\\cat.jpg",
        "file:///etc/passwd", "gs://bucket/cat.jpg", "{root}/outside.jpg", "{root}/images2/1.jpg",
        "{root}/images/../outside.jpg",
    ],
)  # fmt: skip
def test_paths_that_lead_out_of_the_folder_are_refused(root, path):
    path = path.replace("{root}", str(root))
    with pytest.raises(InputError, match=r"list: 1 paths lead out of the folder .*/images; "):
        places.under(root / "images", ["cat/1.jpg", path], "list")


def test_one_path_in_two_spellings_is_one():
    assert places.twice(["a/1", "b/1", "./a/1", "b\\1", "c/1"]) == ["a/1", "b/1"]


# What is no file.


def make(file, kind):
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(file))
    return file


READERS = {
    "split.json": lambda file: read_split_file(file, file.parent),
    "prompts.json": lambda file: prompts.read(file, ["cat"]),
    "list.csv": photos.read,
    "imagenet/classnames.txt": lambda file: imagenet.read_classes(file.parent / "images"),
    "folders/classnames.txt": lambda file: folders.read(file.parent),
    "folders/classnames.csv": lambda file: folders.read(file.parent),
    "1.jpg": lambda file: readable.check([file], workers=1),
}


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "a socket"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 100 characters
    if name.startswith("folders"):
        touch(tmp_path, *(f"folders/{cat}/{n}.jpg" for cat in "ab" for n in range(3)))
    file = make(type(tmp_path)(name), kind)
    if (name, kind) == ("list.csv", "a folder"):
        return  # which is a folder of photos
    with pytest.raises(InputError, match=f"{name}: {kind}, where a file is expected"):
        READERS[name](file)


def test_a_pipe_is_left_out_like_any_image_that_cannot_be_used(tmp_path, caplog):
    for name in "ab":
        picture(9, 9).save(touch(tmp_path, f"{name}/1.jpg") / name / "1.jpg")
    make(tmp_path / "a" / "2.jpg", "a pipe")
    given = photos.read(tmp_path)
    found, count = readable.leave_out(given.parts, tmp_path, "skip", workers=1)
    assert count == 1
    assert [record.path for record in found["train"]] == ["a/1.jpg", "b/1.jpg"]
    assert "1 image cannot be used, and will be left out:\n  a/2.jpg: a pipe" in caplog.text
