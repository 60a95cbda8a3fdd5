"""Subsets and listings."""

import collections
import hashlib
import json

import pytest

from configs import default
from safe_jax.data import datasets, few_shot, layouts
from safe_jax.data.records import read_split_file
from safe_jax.runtime.errors import InputError
from tests import tiny

# Subsets.


def test_subsets_are_coops(shared):
    """All 75 published draws of the five data sets whose split files are at hand."""
    digests = json.loads((shared / "facts" / "few_shot_digests.json").read_text())["subsets"]
    folder = {"caltech101": shared / "data" / "caltech-101"}
    checked = 0
    for name, draws in digests.items():
        file = layouts.LAYOUTS[name].split_file.split("/")[-1]
        splits, _ = read_split_file(folder.get(name, shared / "facts" / "splits") / file)
        for key, wanted in draws.items():
            shots, seed = (int(part.split("_")[1]) for part in key.split("-"))
            drawn = few_shot.subset(splits.train, splits.val, shots, seed)
            for part, records in zip(("train", "val"), drawn, strict=True):
                listing = "\n".join(record.path for record in records)
                assert hashlib.sha256(listing.encode()).hexdigest() == wanted[part], (name, key)
                checked += 1
    assert checked == 150


def test_subset_draws_by_class_in_order_of_appearance():
    train = [(f"{label}{i}", label) for i in range(9) for label in (2, 0, 1)] + [("rare", 3)]
    val = [(f"v{label}{i}", label) for label in (1, 0) for i in range(9)]
    drawn, drawn_val = few_shot.subset(train, val, shots=8, seed=1)
    assert [r[1] for r in drawn] == [2] * 8 + [0] * 8 + [1] * 8 + [3]
    assert collections.Counter(r[1] for r in drawn_val) == {1: 4, 0: 4}
    assert len(set(drawn)) == len(drawn)
    assert few_shot.subset(train, val, 8, 1) == (drawn, drawn_val)
    assert few_shot.subset(train, val, 8, 2) != (drawn, drawn_val)
    # One generator for both: what val gives depends on what train took.
    assert few_shot.subset(train[:9], val, 8, 1)[1] != drawn_val
    with pytest.raises(ValueError, match="at least 1"):
        few_shot.subset(train, val, 0, 1)


# Listings.


def test_a_data_set_of_ones_own(tiny_root):
    data = datasets.load(tiny.config(tiny_root))
    assert data.classnames == ("red", "green", "blue", "dark grey")  # _ is a space
    assert [len(part) for part in data.splits] == [40, 24, 48]
    assert all((data.image_dir / record.path).exists() for record in data.splits.test)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"dataset": "caltech11", "image_dir": "", "split_file": ""}, "did you mean 'caltech101'"),
        ({"dataset": "mine", "image_dir": ""}, "set config.image_dir, and config.split_file if"),
        ({"split_file": "absent.json"}, "no such split file; point config.data_root"),
        ({"templates": ("a photo",)}, "one {} is expected"),
        ({"templates": ()}, "has no prompts: set config.templates="),
        (
            {"dataset": "dtd", "tfds": "eurosat", "image_dir": "", "split_file": ""},
            "config.dataset=dtd is not what config.tfds=eurosat has: unset one",
        ),
    ],
)
def test_what_is_missing_from_a_description_is_said(tiny_root, knobs, said):
    with pytest.raises(InputError, match=said):
        datasets.load(tiny.config(tiny_root, **knobs))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ('{"train": []}', "keys train, val and test"),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', "rows of"),
        ('{"train": [["a.jpg", "x", "y"]], "val": [], "test": []}', "rows of"),
        ('{"train": [], "val": [], "test": []}', "must not be empty"),
        ('{"train": [["a", 0, "x"]], "val": [], "test": [["b", 2, "y"]]}', "labels must be 0 to 1"),
        ('{"train": [["a", 0, "x"]], "val": [], "test": [["b", 0, "y"]]}', "one class name for"),
    ],
)
def test_malformed_split_files_are_refused(tiny_root, tmp_path, content, said):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(InputError, match=said):
        datasets.load(tiny.config(tiny_root, split_file=str(tmp_path / "split.json")))


@pytest.fixture
def imagenet_root(tmp_path):
    wnids = {"n03": "great white shark", "n01": "tench", "n02": "goldfish"}
    root = tmp_path / "imagenet"
    for wnid in wnids:
        for part, count in (("train", 30), ("val", 3)):
            folder = root / "images" / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{wnid}_{number}.JPEG").touch()
            (folder / ".hidden").touch()
    (root / "classnames.txt").write_text("".join(f"{k} {v}\n" for k, v in wnids.items()))
    return tmp_path


def imagenet_config(root):
    config = default.get_config()
    config.update(dataset="imagenet", data_root=str(root))
    return config


def test_imagenets_validation_is_drawn_from_train(imagenet_root):
    data = datasets.load(imagenet_config(imagenet_root))
    assert data.classnames == ("tench", "goldfish", "great white shark")  # by sorted wnid
    assert [len(sentences) for sentences in data.prompts] == [7, 7, 7]
    assert [len(part) for part in data.splits] == [3 * 27, 3 * 3, 3 * 3]
    assert not set(data.splits.train) & set(data.splits.val)
    assert all(record.path.startswith("train/") for record in data.splits.val)
    assert all(record.path.startswith("val/") for record in data.splits.test)
    first = [record.path for record in data.splits.train if record.label == 0]
    assert first == sorted(first)
    assert datasets.load(imagenet_config(imagenet_root)) == data


def test_imagenets_missing_folders_are_listed(imagenet_root):
    folder = imagenet_root / "imagenet" / "images" / "val" / "n02"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match=f"1 of 6 class folders are missing:\n  {folder}"):
        datasets.load(imagenet_config(imagenet_root))
    folder.mkdir()  # as an archive that was not unpacked to its end leaves it
    with pytest.raises(InputError, match=f"1 class folders hold no image:\n  {folder}"):
        datasets.load(imagenet_config(imagenet_root))
    folder.rmdir()
    (imagenet_root / "imagenet" / "classnames.txt").unlink()
    with pytest.raises(InputError, match=r"list it in .*/imagenet/classnames\.txt, `wnid name`:"):
        datasets.load(imagenet_config(imagenet_root))
