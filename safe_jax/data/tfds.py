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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tqdm

from safe_jax.data import imagenet
from safe_jax.data.records import Record, Splits, complete
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_CHUNK = 1024  # records whose labels are read at a time


def _wordnet_name(label: str) -> str:
    """ImageNet's and its variants' labels are WordNet ids; other labels stay as they are."""
    return imagenet.benchmark_classes().get(label, label)


def _hold_out(parts: dict[str, list[Record]], _: object) -> Splits:
    return Splits(*imagenet.hold_out(parts["train"]), parts["val"])


class _Facts(NamedTuple):
    """How a data set of TFDS differs from the benchmark's.

    `class_name` turns a label of TFDS into the benchmark's class name, or into None if the
    benchmark has no such class. `unlabelled` are splits without labels. `complete` draws the splits
    that are missing.
    """

    class_name: Callable[[str], str | None] = _wordnet_name
    unlabelled: tuple[str, ...] = ()
    complete: Callable[[dict[str, list[Record]], object], Splits] = complete


_CALTECH = {
    "airplanes": "airplane",
    "faces": "face",
    "leopards": "leopard",
    "motorbikes": "motorbike",
    "background_google": None,
    "faces_easy": None,
}
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
_FACTS = {
    "caltech101": _Facts(lambda label: _CALTECH.get(label, label)),
    "cars196": _Facts(lambda label: " ".join([label.split()[-1], *label.split()[:-1]])),  # the year
    "eurosat": _Facts(lambda label: _EUROSAT.get(label, label)),
    "imagenet2012": _Facts(unlabelled=("test",), complete=_hold_out),
    "oxford_flowers102": _Facts(lambda label: label.rstrip("?")),
    "oxford_iiit_pet": _Facts(str.lower),
    # /a/apse/indoor: indoor apse
    "sun397": _Facts(lambda label: " ".join(label.split("/")[:1:-1])),
}


@dataclasses.dataclass(frozen=True)
class Image:
    """An image in a record; it has `open` and `stat`, as a `pathlib.Path` has."""

    folder: "Prepared"
    name: str

    def open(self, mode: str = "rb") -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"mode must be rb, not {mode}")
        return io.BytesIO(self.folder.read(self.name))

    def stat(self) -> os.stat_result:
        """Of the file that the record is in."""
        return os.stat(self.folder.file_of(self.name))

    def __str__(self):
        return f"{self.folder}/{self.name}"


class Prepared:
    """A prepared data set in place of a folder of images: `prepared / "train/12"` is an `Image`.

    Several threads may read at the same time. Raises `InputError` if the data set is not prepared,
    or is prepared in a format whose records cannot be read in any order.
    """

    def __init__(self, root: paths.Path, name: str):
        if not isinstance(root, pathlib.Path):
            raise InputError(
                f"config.data_root={root}: records of TFDS are read by position, which takes "
                "a disk of this machine: copy them there"
            )
        self.directory = _find_directory(root, name)
        import tensorflow_datasets as tfds  # takes seconds, and few runs need it

        builder = tfds.builder_from_directory(self.directory)
        if "array_record" not in {f.value for f in builder.info.available_file_formats()}:
            raise InputError(
                f"{self.directory} is prepared as {builder.info.file_format.value}, but "
                f"array_record is needed; remove it and prepare it anew: {_command(root, name)}"
            )
        features = builder.info.features
        self._image = _find_feature(features, tfds.features.Image, "image", self.directory)
        self._label = _find_feature(features, tfds.features.ClassLabel, "label", self.directory)
        self.label_names = features[self._label].names
        # TFDS shall decode no image, not even those that are not read here, such as masks.
        skipped: Any = {
            key: tfds.decode.SkipDecoding()
            for key, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        self._infos = {split: builder.info.splits[split] for split in builder.info.splits}
        self._sources: dict[str, Any] = {
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
        """The content of the image file of the record `SPLIT/NUMBER`."""
        split, number = name.split("/")
        return self._sources[split][int(number)][self._image]

    def file_of(self, name: str) -> str:
        """The file that the record `SPLIT/NUMBER` is in."""
        split, number = name.split("/")
        info = self._infos[split]
        ends = np.cumsum(info.shard_lengths)
        return info.filepaths[int(np.searchsorted(ends, int(number), side="right"))]

    def labels(self, split: str, cache: pathlib.Path) -> np.ndarray:
        """The label of every record, `(n,)`; kept in `cache`, as reading them reads all images."""
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
        label_n, content = np.array(labels), io.BytesIO()
        np.save(content, label_n)
        paths.write(file, content.getvalue())
        return label_n


def read(root: paths.Path, name: str, cache: pathlib.Path) -> tuple[Prepared, Splits, list[str]]:
    """Reads the data set `name`, `name/config` or `name:version`.

    Classes are named as in the benchmark. Missing splits are drawn as by `records.complete`,
    ImageNet's as by `imagenet.read`. Returns the data set, its splits, and class names by label.
    """
    prepared, facts = Prepared(root, name), _facts(name)
    kept = [(n, c) for n, c in enumerate(benchmark_names(name, prepared.label_names)) if c]
    label = {n: rank for rank, (n, _) in enumerate(kept)}
    classnames = [classname for _, classname in kept]
    parts = {}
    for split in prepared.splits:
        if split in _PARTS and split not in facts.unlabelled:
            parts[_PARTS[split]] = [
                Record(f"{split}/{number}", label[n], classnames[label[n]])
                for number, n in enumerate(prepared.labels(split, cache).tolist())
                if n in label
            ]
    if "train" not in parts:
        raise InputError(f"{prepared} has the splits {', '.join(prepared.splits)}, but no train")
    return prepared, facts.complete(parts, prepared), classnames


def read_variant(
    root: paths.Path, name: str, cache: pathlib.Path
) -> tuple[Prepared, list[Record], list[int]]:
    """Reads the test split of a variant of ImageNet.

    Returns the data set, its records, and the labels in ImageNet of its classes.
    """
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


def _facts(name: str) -> _Facts:
    return _FACTS.get(base_name(name), _Facts())


def benchmark_names(name: str, label_names: Iterable[str]) -> list[str | None]:
    """The benchmark's class names for TFDS's; None for what is no class of the benchmark."""
    return [_facts(name).class_name(label) for label in label_names]


def _find_feature(features: Any, kind: type, name: str, directory: pathlib.Path) -> str:
    """The key of the feature `name`, or else of the only feature of this kind."""
    found = [key for key, feature in features.items() if isinstance(feature, kind)]
    if name in found:
        return name
    if len(found) != 1:
        raise InputError(
            f"{directory}: a feature {name!r}, or one {kind.__name__}, is expected among "
            f"{', '.join(features)}"
        )
    return found[0]


def _find_directory(root: pathlib.Path, name: str) -> pathlib.Path:
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


def _command(root: pathlib.Path, name: str) -> str:
    return f"pip install 'safe_jax[tfds]' && python tools/prepare_tfds.py {name} {root}"
