"""Data sets of TFDS: prepared here from real scans, without TensorFlow, and read back."""

import concurrent.futures
import io
import json
import os
import sys
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets

from configs import default
from safe_jax.bank import store
from safe_jax.data import check, datasets, imagenet, images, readable, tfds
from safe_jax.data.datasets import read_settings
from safe_jax.data.preprocessing import Preprocessing
from safe_jax.data.records import read_split_file
from safe_jax.experiment import run as experiment
from safe_jax.runtime.errors import InputError
from tests import tiny
from tools import prepare_tfds

SIZES = {"train": 60, "test": 30}


class Scans(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    """Scikit-learn's scanned digits 0 to 2, by the name and features of a larger data set."""

    name = "oxford_iiit_pet"
    VERSION = tensorflow_datasets.core.Version("4.0.0")
    LABELS = ("Zero", "one_line", "two")
    STEP = 1  # between the labels of digits that follow each other
    # Nothing is downloaded; without this TFDS looks for checksums beside this file.
    url_infos: ClassVar[dict] = {}

    def _info(self):
        kinds = tensorflow_datasets.features
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            features=kinds.FeaturesDict(
                {
                    "image": kinds.Image(encoding_format="png"),
                    "label": kinds.ClassLabel(names=self.LABELS),
                    "species": kinds.ClassLabel(names=["a", "b"]),
                    "file_name": kinds.Text(),
                    "segmentation_mask": kinds.Image(shape=(None, None, 1)),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in SIZES}

    def _generate_examples(self, part):
        for number, (scan, label) in enumerate(scans(part)):
            png = io.BytesIO()
            PIL.Image.fromarray(scan).save(png, "PNG")
            broken = io.BytesIO(b"no image, and nobody may care")
            yield (
                number,
                {
                    "image": io.BytesIO(png.getvalue()),
                    "label": label * self.STEP,
                    "species": 0,
                    "file_name": f"{number}.png",
                    "segmentation_mask": broken,
                },
            )


def scans(part):
    """Pictures `(64, 64, 3)` and labels."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    digits = load_digits(n_class=3)
    chosen = slice(0, 60) if part == "train" else slice(60, 90)
    for scan, label in zip(digits.images[chosen], digits.target[chosen], strict=True):
        pixels = np.kron((scan * 15).astype(np.uint8), np.ones((8, 8), np.uint8))
        yield np.stack([pixels] * 3, -1), int(label)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    Scans(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def config(root, tmp_path):
    config = default.get_config()
    config.update(tfds="oxford_iiit_pet", data_root=str(root), cache_dir=str(tmp_path / "cache"))
    return config


def test_what_was_prepared_is_read_back(config):
    data = datasets.load(read_settings(config))
    assert "tensorflow" not in sys.modules
    assert data.name == "oxford_pets"
    assert data.classnames == ("zero", "one line", "two")  # the benchmark's are in lower case
    assert data.prompts[0] == ("a photo of a zero, a type of pet.",)
    assert [len(part) for part in data.splits] == [48, 12, 30]  # val is a fifth of train's
    assert {r.path.split("/")[0] for r in data.splits.train + data.splits.val} == {"train"}
    assert not {r.path for r in data.splits.train} & {r.path for r in data.splits.val}
    for part in SIZES:
        wanted = sorted((scan.tobytes(), label) for scan, label in scans(part))
        records = data.splits.test if part == "test" else data.splits.train + data.splits.val
        found = [
            (
                images.load(
                    images.Crop(data.image_dir / record.path), Preprocessing(size=64), None
                ),
                record.label,
            )
            for record in records
        ]
        assert sorted((pixels.tobytes(), label) for pixels, label in found) == wanted


def test_it_can_be_checked(config):
    assert check.look_at(read_settings(config)) == (
        False,
        "3 classes; 48 train, 12 val and 30 test images",
        [],
    )
    config.tfds = "food101"
    assert "prepare it: pip install" in check.look_at(read_settings(config)).problems[0]


def test_labels_are_read_once(config, monkeypatch):
    first = datasets.load(read_settings(config))
    monkeypatch.setattr(tfds.tqdm, "tqdm", None)
    again = datasets.load(read_settings(config))
    assert (again.splits, again.classnames) == (first.splits, first.classnames)


def test_threads_read_what_one_reads(config):
    data = datasets.load(read_settings(config))
    paths = [data.image_dir / record.path for part in data.splits for record in part] * 5
    one = [path.open("rb").read() for path in paths]
    fresh = datasets.load(read_settings(config)).image_dir
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda path: (fresh / path.name).open().read(), paths))
    assert many == one
    assert len(set(one)) > 60


def test_unusable_images_are_named(config, monkeypatch):
    data = datasets.load(read_settings(config))
    paths = [data.image_dir / record.path for record in data.splits.test[:2]]
    readable.check(paths, 2)
    monkeypatch.setattr(tfds.Prepared, "read", lambda *_: b"no image")
    with pytest.raises(InputError, match=r"2 of 2 .*\n.*/4\.0\.0/test/\d+: cannot be decoded"):
        readable.check(paths, 2)


def test_a_bank_is_of_the_records_as_they_are(config, root, tmp_path):
    data = datasets.load(read_settings(config))

    def folder(**knobs):
        frozen = tiny.freeze(config, **knobs)
        spec = store.bank_spec(frozen, "digest", data.image_dir, ["test/0", "test/1"], 1)
        return spec.folder

    (file,) = (root / "oxford_iiit_pet" / "4.0.0").glob("*test.array_record*")
    before = folder()
    assert before == folder()
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert before != folder()


def test_a_run(config, tiny_root, tmp_path):
    run = tiny.config(tiny_root, seeds=(1,), shots=(2,), epochs=1)
    run.update(
        dataset="", image_dir="", split_file="", templates=(), tfds=config.tfds,
        data_root=config.data_root, cache_dir=config.cache_dir,
    )  # fmt: skip
    zero_shot, safe = experiment.run(run, tmp_path / "run")
    assert zero_shot.dataset == "oxford_pets"
    assert safe.accuracy in safe.curve["eval"]
    assert len(safe.examples) == 10
    assert (tmp_path / "run" / safe.examples[0].image).exists()


def test_the_newest_version_is_read_unless_one_is_named(root, tmp_path):
    for version in ("4.0.0", "10.0.0"):
        (tmp_path / "oxford_iiit_pet").mkdir(exist_ok=True)
        (tmp_path / "oxford_iiit_pet" / version).symlink_to(root / "oxford_iiit_pet" / "4.0.0")

    def directory(name):
        return str(tfds.Prepared(tmp_path, name).directory.relative_to(tmp_path))

    assert directory("oxford_iiit_pet") == "oxford_iiit_pet/10.0.0"
    assert directory("oxford_iiit_pet:4.0.0") == "oxford_iiit_pet/4.0.0"
    with pytest.raises(InputError, match=r"but oxford_iiit_pet:10\.0\.0, oxford_iiit_pet:4\.0\.0;"):
        directory("oxford_iiit_pet:3.0.0")
    for name in ("rgb", "all"):
        (tmp_path / "eurosat" / name).mkdir(parents=True)
        (tmp_path / "eurosat" / name / "2.0.0").symlink_to(root / "oxford_iiit_pet" / "4.0.0")
    with pytest.raises(InputError, match="has several configs; name one of eurosat/all, eurosat/r"):
        directory("eurosat")
    assert directory("eurosat/rgb") == "eurosat/rgb/2.0.0"


class Variant(Scans, skip_registration=True):
    name = "imagenet_a"
    LABELS = tuple(imagenet.benchmark_classes())
    STEP = 5


def test_a_variant_of_imagenet_has_its_own_classes(tmp_path, config):
    Variant(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    config.update(tfds="imagenet2012", data_root=str(tmp_path))
    transfer = datasets.load_transfer(read_settings(config), "imagenet_a")
    assert transfer.classes == [0, 5, 10]
    assert {r.label: r.classname for r in transfer.records} == {
        0: "tench", 1: "electric ray", 2: "brambling",
    }  # fmt: skip
    assert len(transfer.records) == SIZES["test"]


def test_the_tool_prepares_what_is_read(config, tmp_path, monkeypatch, capsys):
    def builder(name, **kwargs):
        if name == "oxford_pets":
            raise tensorflow_datasets.core.DatasetNotFoundError("oxford_pets:\nis not there")
        if name != "oxford_iiit_pet":
            raise ImportError("TensorFlow is missing")
        return Scans(**kwargs)

    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    assert prepare_tfds.main(["oxford_iiit_pet", str(tmp_path / "new")]) == 0
    assert "--config.tfds=oxford_iiit_pet" in capsys.readouterr().out
    wanted = datasets.load(read_settings(config))
    config.data_root = str(tmp_path / "new")
    assert datasets.load(read_settings(config)).splits == wanted.splits
    assert prepare_tfds.main(["eurosat", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err.endswith(
        "error: TensorFlow is missing; pip install 'safe_jax[tfds]'\n"
    )
    assert prepare_tfds.main(["oxford_pets", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == "error: oxford_pets: is not there\n"


def test_what_is_not_prepared_gets_the_command(config, root, tmp_path):
    config.tfds = "food101"
    command = f"python tools/prepare_tfds.py food101 {root}"
    with pytest.raises(InputError, match=f"'food101' is not prepared in .*; .*{command}"):
        datasets.load(read_settings(config))

    other = tmp_path / "oxford_iiit_pet" / "4.0.0"
    other.mkdir(parents=True)
    for file in (root / "oxford_iiit_pet" / "4.0.0").glob("*.json"):
        (other / file.name).write_text(file.read_text())
    content = json.loads((other / "dataset_info.json").read_text())
    (other / "dataset_info.json").write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    config.update(tfds="oxford_iiit_pet", data_root=str(tmp_path))
    with pytest.raises(InputError, match="prepared as tfrecord, but array_record"):
        datasets.load(read_settings(config))
    config.image_dir = "x"
    with pytest.raises(InputError, match="has its own images: unset"):
        datasets.load(read_settings(config))


def test_official_class_names_are_the_benchmarks(shared):
    """TFDS's own lists against the names in CoOp's split files; ImageNet's against ours."""
    from tensorflow_datasets.datasets.imagenet2012 import imagenet_common
    from tensorflow_datasets.datasets.oxford_iiit_pet import oxford_iiit_pet_dataset_builder as pets
    from tensorflow_datasets.image_classification import cars196, eurosat

    path = tensorflow_datasets.core.tfds_path("image_classification/caltech101_labels.txt")
    splits = shared / "facts" / "splits"
    for name, labels, file in (
        ("cars196", cars196._NAMES, splits / "split_zhou_StanfordCars.json"),
        ("eurosat/rgb", eurosat._LABELS, splits / "split_zhou_EuroSAT.json"),
        ("oxford_iiit_pet:4.0.0", pets._LABEL_CLASSES, splits / "split_zhou_OxfordPets.json"),
        (
            "caltech101",
            path.read_text().split(),
            shared / "data" / "caltech-101" / "split_zhou_Caltech101.json",
        ),
    ):
        wanted = {record.classname for record in read_split_file(file, file.parent)[0].train}
        found = tfds.benchmark_names(name, labels)
        assert {label for label in found if label} == wanted

    wnids = imagenet_common.label_names_file().read_text().split()
    names = tfds.benchmark_names("imagenet2012", wnids)
    assert names[:2] + names[-1:] == ["tench", "goldfish", "toilet paper"]
    assert tfds.imagenet.benchmark_classes() == dict(zip(wnids, names, strict=True))
    assert tfds.benchmark_names("sun397/tfds", ["/a/abbey", "/a/apse/indoor"]) == [
        "abbey", "indoor apse",
    ]  # fmt: skip
    assert tfds.benchmark_names("oxford_flowers102", ["rose", "pink-yellow dahlia?"]) == [
        "rose", "pink-yellow dahlia",
    ]  # fmt: skip
    assert tfds.benchmark_names("mine", ["as_it_is"]) == ["as_it_is"]
