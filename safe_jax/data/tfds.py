"""Data sets that TensorFlow Datasets (TFDS) prepared, read without TensorFlow.

`tools/prepare_tfds.py` prepares one, as array_record, and that alone needs TensorFlow. Splits are
TFDS's, not CoOp's: numbers compare with published ones only as far as these are alike.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from safe_jax.data import imagenet
from safe_jax.data.records import Record, Splits, complete
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_CHUNK = 1024  # records whose labels are read at a time

_EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}
_CALTECH = {
    "airplanes": "airplane",
    "faces": "face",
    "leopards": "leopard",
    "motorbikes": "motorbike",
    "background_google": None,  # no class of the benchmark
    "faces_easy": None,
}


@dataclasses.dataclass(frozen=True)
class Image:
    """An image among the records; it opens and tells its state as a `pathlib.Path` does."""

    folder: "Prepared"
    name: str

    def open(self, mode: str = "rb") -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"mode must be rb, not {mode}")
        return io.BytesIO(self.folder.read(self.name))

    def stat(self) -> os.stat_result:
        """Of the file that holds the record."""
        return os.stat(self.folder.file_of(self.name))

    def __str__(self):
        return f"{self.folder}/{self.name}"


class Prepared:
    """A prepared data set in place of a folder of images: `prepared / "train/12"` is an `Image`.

    Any thread may read at any time. Raises `InputError` where the data set is not prepared, or
    not as records that can be read in any order.
    """

    def __init__(self, root, name: str):
        if paths.is_remote(root):
            raise InputError(
                f"config.data_root={root}: records of TFDS are read by position, which takes "
                "a disk of this machine: copy them there"
            )
        self.directory = _find(root, name)
        builder = tfds.builder_from_directory(self.directory)
        if "array_record" not in {f.value for f in builder.info.available_file_formats()}:
            raise InputError(
                f"{self.directory} is prepared as {builder.info.file_format.value}, but "
                f"array_record is needed; remove it and prepare it anew: {_command(root, name)}"
            )
        features = builder.info.features
        self._image = _only(features, tfds.features.Image, "image", self.directory)
        self._label = _only(features, tfds.features.ClassLabel, "label", self.directory)
        self.label_names = features[self._label].names
        # A data set may have other images: none is decoded by TFDS.
        skipped = {
            key: tfds.decode.SkipDecoding()
            for key, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self._infos = {split: builder.info.splits[split] for split in builder.info.splits}
        self._sources = {
            split: builder.as_data_source(split=split, decoders=skipped) for split in self._infos
        }

    def __truediv__(self, name: str) -> Image:
        return Image(self, name)

    def __str__(self):
        return str(self.directory)

    def resolve(self) -> pathlib.Path:
        return self.directory.resolve()

    @property
    def splits(self) -> list[str]:
        return list(self._infos)

    def read(self, name: str) -> bytes:
        """The image file that is stored as `SPLIT/NUMBER`."""
        split, number = name.split("/")
        return self._sources[split][int(number)][self._image]

    def file_of(self, name: str) -> str:
        split, number = name.split("/")
        info = self._infos[split]
        ends = np.cumsum(info.shard_lengths)
        return info.filepaths[int(np.searchsorted(ends, int(number), side="right"))]

    def labels(self, split: str, cache: pathlib.Path) -> np.ndarray:
        """The label of every record; they are kept in `cache`, for they lie among the images."""
        stats = [os.stat(file) for file in self._infos[split].filepaths]
        identity = [str(self.resolve()), split, [(s.st_size, s.st_mtime_ns) for s in stats]]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
        file = cache / "labels" / f"{key}.npy"
        if file.exists():
            return np.load(file)
        source, labels = self._sources[split], []
        with tqdm.tqdm(total=len(source), desc=f"labels of {split}", unit=" images") as bar:
            for start in range(0, len(source), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(source)))
                labels += [record[self._label] for record in source.__getitems__(chunk)]
                bar.update(len(chunk))
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as opened:
            np.save(opened, np.array(labels))
        partial.replace(file)
        return np.load(file)


def read(root, name: str, cache: pathlib.Path) -> tuple[Prepared, Splits, list[str]]:
    """The data set `name`, `name/config` or `name:version`, its splits and class names by label.

    Classes are named as in the benchmark; splits that are missing are drawn as
    `complete` tells, ImageNet's as `imagenet.read` does.
    """
    prepared = Prepared(root, name)
    kept = [(n, c) for n, c in enumerate(benchmark_names(name, prepared.label_names)) if c]
    label = {n: rank for rank, (n, _) in enumerate(kept)}
    classnames = [classname for _, classname in kept]
    parts = {}
    for split in prepared.splits:
        if split not in _PARTS or (base_name(name), split) == ("imagenet2012", "test"):
            continue  # ImageNet's test labels are secret
        parts[_PARTS[split]] = [
            Record(f"{split}/{number}", label[n], classnames[label[n]])
            for number, n in enumerate(prepared.labels(split, cache).tolist())
            if n in label
        ]
    if "train" not in parts:
        raise InputError(f"{prepared} has the splits {', '.join(prepared.splits)}, but no train")
    if base_name(name) == "imagenet2012":
        splits = Splits(*imagenet.hold_out(parts["train"]), parts["val"])
    else:
        splits = complete(parts, prepared)
    return prepared, splits, classnames


def read_variant(root, name: str, cache: pathlib.Path) -> tuple[Prepared, list[Record], list[int]]:
    """As `imagenet.read_variant` reads folders; the test split of a variant of ImageNet."""
    prepared = Prepared(root, name)
    classnames = benchmark_names(name, prepared.label_names)
    label_n = prepared.labels("test", cache).tolist()
    labels = sorted(set(label_n))
    rank = {label: n for n, label in enumerate(labels)}
    records = [
        Record(f"test/{number}", rank[label], classnames[label])
        for number, label in enumerate(label_n)
    ]
    return prepared, records, labels


def base_name(name: str) -> str:
    """A data set's name without config and version."""
    return name.split(":")[0].split("/")[0]


def benchmark_names(name: str, label_names: list[str]) -> list[str | None]:
    """TFDS's class names as the benchmark has them; None for what is no class of it."""
    rename = {
        "caltech101": lambda label: _CALTECH.get(label, label),
        "cars196": lambda label: " ".join([label.split()[-1], *label.split()[:-1]]),  # year first
        "eurosat": lambda label: _EUROSAT.get(label, label),
        "oxford_flowers102": lambda label: label.rstrip("?"),
        "oxford_iiit_pet": str.lower,
        "sun397": lambda label: " ".join(label.split("/")[:1:-1]),  # /a/apse/indoor: indoor apse
    }
    if base_name(name).startswith("imagenet"):
        classes = imagenet.benchmark_classes()
        return [classes.get(label, label) for label in label_names]
    return [rename.get(base_name(name), str)(label) for label in label_names]


def _only(features, kind, name, directory):
    """The feature `name`, or else the only one of its kind."""
    found = [key for key, feature in features.items() if isinstance(feature, kind)]
    if name in found:
        return name
    if len(found) != 1:
        raise InputError(
            f"{directory}: a feature {name!r}, or one {kind.__name__}, is expected among "
            f"{', '.join(features)}"
        )
    return found[0]


def _find(root, name):
    """The directory of the newest version that was prepared under `root`."""
    wanted, _, version = name.partition(":")
    there = collections.defaultdict(dict)
    for depth in ("*", "*/*"):  # version, or config/version
        for file in (root / base_name(name)).glob(f"{depth}/dataset_info.json"):
            config = file.parent.parent.relative_to(root)
            there[str(config)][file.parent.name] = file.parent
    matching = {
        key: {v: path for v, path in versions.items() if not version or v == version}
        for key, versions in there.items()
        if key == wanted or (wanted == base_name(name) and key.startswith(f"{wanted}/"))
    }
    matching = {key: versions for key, versions in matching.items() if versions}
    if len(matching) > 1:
        raise InputError(
            f"config.tfds={name!r} has several configs; name one of {', '.join(sorted(matching))}"
        )
    if not matching:
        found = [f"{key}:{v}" for key, versions in sorted(there.items()) for v in sorted(versions)]
        raise InputError(
            f"config.tfds={name!r} is not prepared in {root}"
            + (f", but {', '.join(found)}" if found else "")
            + f"; prepare it: {_command(root, wanted)}"
        )
    (versions,) = matching.values()
    return versions[max(versions, key=lambda v: [int(x) for x in v.split(".")])]


def _command(root, name):
    return f"pip install 'safe_jax[tfds]' && python tools/prepare_tfds.py {name} {root}"
