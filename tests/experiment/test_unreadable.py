"""A run with images that cannot be used: by default they are refused; a folder may skip them."""

import json
import shutil

import pytest

from configs import default, folder
from safe_jax.data import datasets
from safe_jax.experiment import knobs
from safe_jax.experiment import run as experiment
from safe_jax.runtime.errors import InputError
from tests import tiny


@pytest.fixture(scope="module")
def images(tiny_root, tmp_path_factory):
    """Twelve images of two classes, in three splits; a training and a test image are damaged."""
    root = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for name in list(tiny.COLOURS)[:2]:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                file = f"{name}/{part}_{number:02}.jpg"
                shutil.copy(tiny_root / "patches" / "images" / file, root / part / name)
    for file in ("train/red/train_01.jpg", "test/green/test_01.jpg"):
        (root / file).write_bytes((root / file).read_bytes()[:500])
    return root


def config(images, tiny_root, tmp_path, **changed):
    few = {"shots": (3,), "methods": ("zero_shot",), "image_dir": str(images), "split_file": ""}
    return tiny.config(tiny_root, dataset="", cache_dir=str(tmp_path / "cache"), **few | changed)


def test_a_benchmark_refuses_and_a_folder_skips():
    assert datasets.read_settings(default.get_config()).unreadable == "refuse"
    assert datasets.read_settings(folder.get_config()).unreadable == "skip"
    with pytest.raises(InputError, match=r"config\.unreadable='no': one of refuse, skip is exp"):
        datasets.read_settings(dict(default.get_config(), unreadable="no"))


def test_what_is_left_out_is_listed_and_counted_in_every_row(images, tiny_root, tmp_path, caplog):
    skipping = config(images, tiny_root, tmp_path, unreadable="skip")
    (row,) = experiment.run(skipping, tmp_path / "run")
    listed = next(m for m in caplog.messages if "cannot be used, and will be left out" in m)
    assert listed.startswith("2 images ")
    assert "\n  train/red/train_01.jpg: cannot be decoded" in listed
    assert "\n  test/green/test_01.jpg: cannot be decoded" in listed
    assert row.unreadable == 2
    assert json.loads((tmp_path / "run" / "results.jsonl").read_text())["unreadable"] == 2
    assert experiment.run(skipping, tmp_path / "run") == [row]  # kept as it is

    refusing = config(images, tiny_root, tmp_path)
    with pytest.raises(InputError, match=r"2 of \d+ images .*config\.unreadable=skip:\n.*test_01"):
        experiment.run(refusing, tmp_path / "refused")


def test_where_all_can_be_used_skipping_changes_nothing(tiny_root, tmp_path):
    images = tiny_root / "patches" / "images"
    refusing = knobs.read(config(images, tiny_root, tmp_path))
    skipping = knobs.read(config(images, tiny_root, tmp_path, unreadable="skip"))
    data = datasets.load(refusing)
    kept = datasets.without_unreadable(datasets.load(skipping), workers=2)
    assert kept == data
    digest = knobs.experiment_hash(skipping, kept, "weights")
    assert digest == knobs.experiment_hash(refusing, data, "weights")


def test_a_class_without_an_image_left_is_refused(images, tiny_root, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(images, root)
    for file in (root / "train" / "green").iterdir():
        file.write_text("no image")
    with pytest.raises(InputError, match=r"no usable training image of 1 class:\n  green$"):
        experiment.run(config(root, tiny_root, tmp_path, unreadable="skip"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
