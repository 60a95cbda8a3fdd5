"""Listings of every kind to records: folders, ImageNet and its variants, FGVC-Aircraft; prompts."""

import hashlib
import json
import shutil

import pytest

from configs import default, folder
from safe_jax.data import datasets, imagenet, prompts
from safe_jax.runtime.errors import InputError

NAMES_SHA256 = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def load(**knobs):
    config = default.get_config()
    config.update(knobs)
    return datasets.load(config)


def load_folder(root):
    config = folder.get_config()
    config.image_dir = str(root)
    return datasets.load(config)


# ImageNet.


def test_imagenets_names_are_the_benchmarks():
    """The digest of the list that CLIP, CoOp and Tip-Adapter use."""
    classes = imagenet.benchmark_classes()
    assert hashlib.sha256("\n".join(classes.values()).encode()).hexdigest() == NAMES_SHA256
    assert list(classes) == sorted(classes)
    assert len(classes) == 1000
    assert classes["n01440764"] == "tench"
    assert classes["n15075141"] == "toilet paper"


def make_imagenet(root, wnids, part="val", count=2):
    image_dir = root / "imagenet" / "images"
    for wnid in wnids:
        touch(image_dir / part / wnid, *(f"{wnid}_{n}.JPEG" for n in range(count)))
    return root


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
    assert "names 1 classes otherwise than the benchmark, n01440764 for one" in caplog.text
    (tmp_path / "imagenet" / "classnames.txt").write_text("tench\n")
    with pytest.raises(InputError, match="a line `wnid name` for each class is expected"):
        load(dataset="imagenet", data_root=str(tmp_path))


# FGVC-Aircraft.


@pytest.fixture
def aircraft_root(tmp_path):
    root = tmp_path / "fgvc_aircraft"
    root.mkdir()
    (root / "variants.txt").write_text("737-400\nA300B4\nF-16A/B\n")
    (root / "images_variant_train.txt").write_text("0000001 A300B4\n0000002 F-16A/B\n")
    (root / "images_variant_val.txt").write_text("0000003 737-400\n")
    (root / "images_variant_test.txt").write_text("0000004 737-400\n0000005 A300B4\n")
    return tmp_path


def test_aircraft_are_read_from_their_own_lists(aircraft_root):
    data = load(dataset="fgvc_aircraft", data_root=str(aircraft_root))
    assert data.classnames == ("737-400", "A300B4", "F-16A/B")
    assert data.prompts[2] == ("a photo of a F-16A/B, a type of aircraft.",)
    assert data.splits.train == [("0000001.jpg", 1, "A300B4"), ("0000002.jpg", 2, "F-16A/B")]
    assert [len(part) for part in data.splits] == [2, 1, 2]
    assert data.image_dir == aircraft_root / "fgvc_aircraft" / "images"


def test_what_is_wrong_with_aircrafts_lists_is_said(aircraft_root):
    (aircraft_root / "fgvc_aircraft" / "images_variant_val.txt").write_text("1 737-400\n2 737\n")
    with pytest.raises(InputError, match=r"val\.txt, line 2: .* not '2 737'"):
        load(dataset="fgvc_aircraft", data_root=str(aircraft_root))
    (aircraft_root / "fgvc_aircraft" / "variants.txt").unlink()
    with pytest.raises(InputError, match=r"1 lists .* are missing.*\n.*variants\.txt"):
        load(dataset="fgvc_aircraft", data_root=str(aircraft_root))


# A folder of one's own.


def test_folders_of_classes_are_divided_always_alike(tmp_path, caplog):
    root = tmp_path / "My pets"
    for name in ("cat_10", "cat_2", "Dog"):
        touch(root, *(f"{name}/{n}.JPG" for n in range(20)), f"{name}/.x.jpg", f"{name}/notes.txt")
    touch(root, ".hidden/1.jpg", "README.md")
    data = load_folder(root)
    assert "My pets: 3 files that are no images by their names are passed over" in caplog.text
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


# Prompts.


def test_sentences_of_a_file_replace_templates(tmp_path):
    touch(tmp_path / "x", *(f"{name}/{n}.png" for name in ("red_cat", "dog") for n in range(3)))
    sentences = {"red_cat": ["A cat.", "It is red."], "dog": ["A dog."], "cow": ["A cow."]}
    (tmp_path / "prompts.json").write_text(json.dumps(sentences))
    data = load(image_dir="x", data_root=str(tmp_path), prompts_file="prompts.json")
    assert data.prompts == (("A dog.",), ("A cat.", "It is red."))

    (tmp_path / "prompts.json").write_text(json.dumps({"dog": ["A dog."], "redcat": ["A cat."]}))
    said = "sentences for 1 of 2 classes are missing:\n  red cat .there is 'redcat'"
    with pytest.raises(InputError, match=said):
        load(image_dir="x", data_root=str(tmp_path), prompts_file="prompts.json")
    for content in ('{"dog": "A dog."}', '{"dog": []}', '["dog"]', '{"dog": [" "]}'):
        (tmp_path / "prompts.json").write_text(content)
        with pytest.raises(InputError, match="a list of sentences"):
            prompts.read(tmp_path / "prompts.json", ["dog"])
    (tmp_path / "prompts.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        prompts.read(tmp_path / "prompts.json", ["dog"])
    with pytest.raises(InputError, match="no such file of prompts"):
        prompts.read(tmp_path / "absent.json", ["dog"])


# Variants of ImageNet.


def test_a_variant_of_imagenet_may_have_a_part_of_its_classes(tmp_path):
    wnids = list(imagenet.benchmark_classes())
    config = default.get_config()
    config.data_root = str(tmp_path)
    image_dir = tmp_path / "imagenet-adversarial" / "imagenet-a"
    touch(image_dir, f"{wnids[7]}/b.jpg", f"{wnids[7]}/a.jpg", f"{wnids[3]}/a.jpg", "README.txt")
    transfer = datasets.load_transfer(config, "imagenet_a")
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
    transfer = datasets.load_transfer(config, "imagenet_a")
    assert transfer.classes == [1]
    assert [record.classname for record in transfer.records] == ["7", "7"]

    touch(image_dir, "n0144076/a.jpg")
    with pytest.raises(InputError, match=r"\(is n0144076 meant to be n01440764\?\):\n  n0144076$"):
        datasets.load_transfer(config, "imagenet_a")
    with pytest.raises(InputError, match="no such folder"):
        datasets.load_transfer(config, "imagenet_r")
    with pytest.raises(InputError, match="'imagenet_b' is not one of imagenet_v2, "):
        datasets.load_transfer(config, "imagenet_b")


def test_imagenet_v2_has_numbers_for_folders(tmp_path):
    """As a listing sorts them, 10 comes before 2."""
    image_dir = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    touch(image_dir, *(f"{label}/x.jpeg" for label in range(1000)))
    config = default.get_config()
    config.data_root = str(tmp_path)
    transfer = datasets.load_transfer(config, "imagenet_v2")
    assert transfer.classes == list(range(1000))
    assert transfer.records[2] == ("2/x.jpeg", 2, "great white shark")
    shutil.rmtree(image_dir / "2")
    with pytest.raises(InputError, match="1 class folders are missing:\n  n01484850"):
        datasets.load_transfer(config, "imagenet_v2")
