"""Images, subsets and listings."""

import collections
import hashlib
import json
import random

import numpy as np
import PIL.Image
import pytest

from configs import default
from safe_jax import clip
from safe_jax.data import datasets, few_shot, images, layouts, sources
from safe_jax.errors import InputError
from tests import tiny


def picture(width, height, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


# Images.


@pytest.mark.parametrize(
    ("size", "box"),
    # The long side is int(64 * long / short); the crop starts at round(half of what is over),
    # where Python rounds half to even: 64 * 95 / 70 = 86.9 -> 86, 11; 91 -> 13.5 -> 14.
    [((95, 70), (86, 64, 11, 0)), ((70, 95), (64, 86, 0, 11)), ((91, 64), (91, 64, 14, 0)),
     ((64, 69), (64, 69, 0, 2)), ((64, 64), (64, 64, 0, 0)), ((30, 20), (96, 64, 16, 0))],
)  # fmt: skip
def test_center_crop_is_by_the_pixel(size, box):
    width, height, left, top = box
    resized = picture(*size).resize((width, height), PIL.Image.Resampling.BICUBIC)
    wanted = np.asarray(resized)[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(images.center_crop(picture(*size), 64), wanted)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = (
        picture(80, 64, "L").convert("I").convert("I;16")
        if mode == "I;16"
        else picture(80, 64, mode)
    )
    pixels = images.center_crop(image, 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_preprocess_normalises_with_clips_mean_and_deviation():
    grey = PIL.Image.new("RGB", (64, 64), (128, 0, 255))
    pixel = clip.preprocess(grey, 32)[5, 5]
    wanted = [(128 / 255 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258,
              (1 - 0.40821073) / 0.27577711]  # fmt: skip
    np.testing.assert_allclose(pixel, wanted, rtol=1e-6)
    assert clip.preprocess(grey, 32).dtype == np.float32


def test_random_crops_depend_on_their_seed_alone():
    image = picture(90, 70)
    one, same, other = (
        images.random_crop(image, 32, random.Random(seed), (0.5, 1)) for seed in ("a", "a", "b")
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert one.shape == (32, 32, 3)


def test_random_crops_keep_to_their_scale():
    """A picture whose pixels tell where they are: the area of the crop can be read off."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(200))
    image = PIL.Image.fromarray(np.stack([columns, rows, rows], -1).astype(np.uint8))
    flipped = 0
    for seed in range(40):
        crop = images.random_crop(image, 100, random.Random(seed), (0.5, 0.6)).astype(float)
        width = abs(crop[50, 99, 0] - crop[50, 0, 0]) * 100 / 99
        height = (crop[99, 50, 1] - crop[0, 50, 1]) * 100 / 99
        assert 0.47 < width * height / 200**2 < 0.63
        assert 0.72 < width / height < 1.38
        flipped += crop[50, 99, 0] < crop[50, 0, 0]
    assert 10 < flipped < 30


def test_random_crop_of_a_strip_falls_back_to_its_middle():
    crop = images.random_crop(picture(400, 20), 32, random.Random(0), (0.8, 1))
    assert crop.shape == (32, 32, 3)


def test_batches_come_in_order_whatever_the_threads(tiny_root):
    files = sorted((tiny_root / "patches" / "images").rglob("*.jpg"))[:10]
    crops = [images.Crop(file, None if i % 2 else "seed") for i, file in enumerate(files)]
    parts = [crops[:4], crops[4:5], crops[5:]]
    one, many = (list(images.load_batches(parts, 64, (0.5, 1), n)) for n in (1, 5))
    assert [len(batch) for batch in one] == [4, 1, 5]
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(many))
    for crop, pixels in zip(crops, np.concatenate(one), strict=True):
        np.testing.assert_array_equal(images.load(crop, 64, (0.5, 1)), pixels)


def test_a_damaged_image_is_named(tmp_path):
    picture(90, 90).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.jpg cannot be decoded: .*truncated"):
        images.load(images.Crop(tmp_path / "cut.jpg"), 32, (0.5, 1))
    (tmp_path / "text.png").write_text("no image")
    paths = [tmp_path / name for name in ("whole.jpg", "cut.jpg", "text.png", "absent.jpg")]
    with pytest.raises(InputError) as caught:
        sources.check_files(paths, workers=2)
    said = str(caught.value)
    assert said.startswith("3 of 4 images cannot be used")
    assert "whole.jpg" not in said
    assert f"{tmp_path}/cut.jpg: cannot be decoded" in said
    assert f"{tmp_path}/text.png: cannot be decoded" in said
    assert f"{tmp_path}/absent.jpg: missing" in said


# Subsets.


def test_subsets_are_coops(shared):
    """All 75 published draws of the five data sets whose split files are at hand."""
    digests = json.loads((shared / "facts" / "few_shot_digests.json").read_text())["subsets"]
    folder = {"caltech101": shared / "data" / "caltech-101"}
    checked = 0
    for name, draws in digests.items():
        file = layouts.LAYOUTS[name].split_file.split("/")[-1]
        splits, _ = sources.read_split_file(folder.get(name, shared / "facts" / "splits") / file)
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
    (imagenet_root / "imagenet" / "classnames.txt").unlink()
    with pytest.raises(InputError, match=r"list it in .*/imagenet/classnames\.txt, `wnid name`:"):
        datasets.load(imagenet_config(imagenet_root))
