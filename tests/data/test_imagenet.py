"""ImageNet and its variants: class names, folders, and the validation split that is drawn."""

import hashlib
import shutil

import pytest

from safe_jax.data import datasets, imagenet
from safe_jax.data.datasets import DataSettings
from safe_jax.runtime.errors import InputError
from tests.data.listings import make_imagenet, touch

NAMES_SHA256 = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"


def load(**knobs):
    return datasets.load(DataSettings(**knobs))


def test_imagenets_names_are_the_benchmarks():
    """The digest of the list that CLIP, CoOp and Tip-Adapter use."""
    classes = imagenet.benchmark_classes()
    assert hashlib.sha256("\n".join(classes.values()).encode()).hexdigest() == NAMES_SHA256
    assert list(classes) == sorted(classes)
    assert len(classes) == 1000
    assert classes["n01440764"] == "tench"
    assert classes["n15075141"] == "toilet paper"


def test_imagenet_needs_no_list_of_names(tmp_path):
    wnids = list(imagenet.benchmark_classes())
    make_imagenet(tmp_path, wnids, "train", 1)
    make_imagenet(tmp_path, wnids[1:], "val", 1)
    said = "1 of 2000 class folders are missing; .*classnames.txt, `wnid name`:\n.*n01440764"
    with pytest.raises(InputError, match=said):
        load(dataset="imagenet", data_root=str(tmp_path))
    make_imagenet(tmp_path, wnids[:1], "val", 1)
    data = load(dataset="imagenet", data_root=str(tmp_path))
    assert data.classnames[281] == "tabby cat"
    assert data.prompts[281][0] == "itap of a tabby cat."
    assert [len(part) for part in data.splits] == [1000, 0, 1000]


def test_a_list_of_names_wins_and_says_so(tmp_path, caplog):
    wnids = ["n01443537", "n01440764"]
    for part in ("train", "val"):
        make_imagenet(tmp_path, wnids, part)
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01443537 goldfish\nn01440764 a tench\n")
    data = load(dataset="imagenet", data_root=str(tmp_path))
    assert data.classnames == ("a tench", "goldfish")
    assert "has other names than the benchmark for 1 classes, such as n01440764" in caplog.text
    for content, message in (
        ("\n", "a line `wnid name` for each class is expected"),
        ("tench\n", "line 1: tench is there without a name"),
        ("n01443537 goldfish\nn01440764\n", "line 2: n01440764 is there without a name"),
        ("n01443537 goldfish\nn01443537 carp\n", "line 2: n01443537 is there twice"),
    ):
        (tmp_path / "imagenet" / "classnames.txt").write_text(content)
        with pytest.raises(InputError, match=message):
            load(dataset="imagenet", data_root=str(tmp_path))
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01443537\tgoldfish\nn01440764 tench\n")
    assert load(dataset="imagenet", data_root=str(tmp_path)).classnames == ("tench", "goldfish")


def test_validation_images_without_class_folders_are_told_of(tmp_path):
    make_imagenet(tmp_path, ["n01443537", "n01440764"], "train")
    touch(tmp_path / "imagenet" / "images" / "val", "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match="val holds 1 files but no class folders: sort them"):
        load(dataset="imagenet", data_root=str(tmp_path))


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


def imagenet_settings(root):
    return datasets.DataSettings(dataset="imagenet", data_root=str(root))


def test_imagenets_validation_is_drawn_from_train(imagenet_root):
    data = datasets.load(imagenet_settings(imagenet_root))
    assert data.classnames == ("tench", "goldfish", "great white shark")  # by sorted wnid
    assert [len(sentences) for sentences in data.prompts] == [7, 7, 7]
    assert [len(part) for part in data.splits] == [3 * 27, 3 * 3, 3 * 3]
    assert not set(data.splits.train) & set(data.splits.val)
    assert all(record.path.startswith("train/") for record in data.splits.val)
    assert all(record.path.startswith("val/") for record in data.splits.test)
    first = [record.path for record in data.splits.train if record.label == 0]
    assert first == sorted(first)
    assert datasets.load(imagenet_settings(imagenet_root)) == data


def test_imagenets_missing_folders_are_listed(imagenet_root):
    folder = imagenet_root / "imagenet" / "images" / "val" / "n02"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(InputError, match=f"1 of 6 class folders are missing:\n  {folder}"):
        datasets.load(imagenet_settings(imagenet_root))
    folder.mkdir()  # as an archive that was not unpacked to its end leaves it
    with pytest.raises(InputError, match=f"1 class folders hold no image:\n  {folder}"):
        datasets.load(imagenet_settings(imagenet_root))
    folder.rmdir()
    (imagenet_root / "imagenet" / "classnames.txt").unlink()
    with pytest.raises(InputError, match=r"list it in .*/imagenet/classnames\.txt, `wnid name`:"):
        datasets.load(imagenet_settings(imagenet_root))


# Variants of ImageNet.


def test_a_variant_of_imagenet_may_have_a_part_of_its_classes(tmp_path):
    wnids = list(imagenet.benchmark_classes())
    settings = DataSettings(data_root=str(tmp_path))
    image_dir = tmp_path / "imagenet-adversarial" / "imagenet-a"
    touch(image_dir, f"{wnids[7]}/b.jpg", f"{wnids[7]}/a.jpg", f"{wnids[3]}/a.jpg", "README.txt")
    transfer = datasets.load_transfer(settings, "imagenet_a")
    assert transfer.classes == [3, 7]
    assert [(r.path, r.label, r.classname) for r in transfer.records] == [
        (f"{wnids[3]}/a.jpg", 0, "tiger shark"),
        (f"{wnids[7]}/a.jpg", 1, "rooster"),
        (f"{wnids[7]}/b.jpg", 1, "rooster"),
    ]
    # Of a model that knows a part of ImageNet, the classes that both have.
    (tmp_path / "imagenet").mkdir()
    names = "".join(f"{wnids[n]} {n}\n" for n in (7, 1))
    (tmp_path / "imagenet" / "classnames.txt").write_text(names)
    transfer = datasets.load_transfer(settings, "imagenet_a")
    assert transfer.classes == [1]
    assert [record.classname for record in transfer.records] == ["7", "7"]

    touch(image_dir, "n0144076/a.jpg")
    with pytest.raises(InputError, match=r"\(is n0144076 meant to be n01440764\?\):\n  n0144076$"):
        datasets.load_transfer(settings, "imagenet_a")
    with pytest.raises(InputError, match="no such folder"):
        datasets.load_transfer(settings, "imagenet_r")
    with pytest.raises(InputError, match="'imagenet_b' is not one of imagenet_v2, "):
        datasets.load_transfer(settings, "imagenet_b")


def test_imagenet_v2_has_numbers_for_folders(tmp_path):
    """As a listing sorts them, 10 comes before 2."""
    image_dir = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    touch(image_dir, *(f"{label}/x.jpeg" for label in range(1000)))
    settings = DataSettings(data_root=str(tmp_path))
    transfer = datasets.load_transfer(settings, "imagenet_v2")
    assert transfer.classes == list(range(1000))
    assert transfer.records[2] == ("2/x.jpeg", 2, "great white shark")
    shutil.rmtree(image_dir / "2")
    with pytest.raises(InputError, match="1 class folders are missing:\n  n01484850"):
        datasets.load_transfer(settings, "imagenet_v2")
