"""A data set by its description in a config: splits, classes, prompts."""

import dataclasses
import difflib
import logging
import pathlib
import re

from etils import epath

from safe_jax.data import digits, folders, imagenet, prompts, tfds
from safe_jax.data.layouts import LAYOUTS, TRANSFER, Layout
from safe_jax.data.records import Record, Splits, read_aircraft, read_split_file
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set whose listing was read; its records' paths are under `image_dir`.

    That is a folder, on a disk or in a bucket, or a `tfds.Prepared`, which has `/`, `open` and
    `stat` as a path has.
    `prompts` has the sentences of each class. `boxes` tells of some images where the labelled
    object is, in pixels.
    """

    name: str
    image_dir: pathlib.Path | epath.Path | tfds.Prepared
    classnames: tuple[str, ...]
    prompts: prompts.Prompts
    splits: Splits
    boxes: dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Images of another source, for a model tuned on ImageNet; nothing is learned from them.

    They may be of a part of its classes: `classes` are these, by their labels in ImageNet, and
    answers are sought among them alone. A record's label is its class's place in `classes`.
    """

    name: str
    image_dir: pathlib.Path | epath.Path | tfds.Prepared
    classes: list[int]
    records: list[Record]


def name(config) -> str:
    """What the data set is called: `config.dataset`, or else after TFDS's name or its folder."""
    if config.dataset:
        return config.dataset
    if config.tfds:
        return _of_tfds(config.tfds)
    return paths.absolute(paths.parse(config.image_dir)).name


def names(config) -> list[str]:
    """Those of `config.dataset`, which may be several: `a,b`."""
    found = [one.strip() for one in config.dataset.split(",")]
    if len(found) > 1 and (not all(found) or len(set(found)) < len(found)):
        raise InputError(f"config.dataset={config.dataset}: different data sets are expected: a,b")
    return found


def _of_tfds(given):
    base = re.split("[/:]", given)[0]
    return {x.tfds: benchmark for benchmark, x in LAYOUTS.items()}.get(base, base)


def benchmark_name(config) -> str:
    """Which of the benchmark's it may be: a folder of your own can have the name of one."""
    return name(config) if config.tfds else config.dataset


def load(config) -> Dataset:
    """The data set that `config.dataset` names, or that the other knobs describe.

    Reads listings only, no image. Raises `InputError` where the description is incomplete or the
    files are not there.
    """
    root = paths.parse(config.data_root)
    layout = describe(config)
    image_dir = paths.join(root, layout.image_dir)
    boxes = {}
    if config.tfds:
        image_dir, splits, classnames = tfds.read(root, config.tfds, paths.cache(config.cache_dir))
    elif layout.split_file:
        if config.dataset == "digits":
            digits.make(root)
        split_file = paths.join(root, layout.split_file)
        splits, boxes = read_split_file(split_file)
        classnames = _classnames(splits, split_file)
    elif config.dataset == "imagenet":
        splits, classnames = imagenet.read(image_dir)
    elif config.dataset == "fgvc_aircraft":
        splits, classnames = read_aircraft(image_dir.parent)
    else:
        splits, classnames = folders.read(image_dir)

    if shared := len({r.path for r in splits.train + splits.val} & {r.path for r in splits.test}):
        log.warning("%d images are in test and in train or val: results will flatter", shared)
    classnames = tuple(classname.replace("_", " ") for classname in classnames)
    if config.prompts_file:
        sentences = prompts.read(paths.join(root, config.prompts_file), classnames)
    else:
        sentences = prompts.fill(layout.templates, classnames)
    return Dataset(name(config), image_dir, classnames, sentences, splits, boxes)


def transfer_names(config) -> list[str]:
    """Those of `config.transfer`; a command line gives a,b as one."""
    return [name.strip() for given in config.transfer for name in given.split(",")]


def load_transfer(config, name: str) -> Transfer:
    """One of `layouts.TRANSFER`, with the classes of the ImageNet that `config` describes."""
    if name not in TRANSFER:
        raise InputError(f"config.transfer: {name!r} is not one of {', '.join(TRANSFER)}")
    root = paths.parse(config.data_root)
    if config.tfds:
        variant = TRANSFER[name].tfds
        image_dir, records, labels = tfds.read_variant(root, variant, paths.cache(config.cache_dir))
        return Transfer(name, image_dir, labels, records)
    image_dir = root / TRANSFER[name].image_dir
    imagenet_dir = config.image_dir or LAYOUTS["imagenet"].image_dir
    classes = imagenet.read_classes(paths.join(root, imagenet_dir))
    whole = name in ("imagenet_v2", "imagenet_sketch")
    records, labels = imagenet.read_variant(image_dir, classes, whole)
    return Transfer(name, image_dir, labels, records)


def describe(config) -> Layout:
    """What the config says, completed by what is known of the benchmark."""
    if config.tfds and (config.image_dir or config.split_file):
        raise InputError("config.tfds has its own images: unset config.image_dir and split_file")
    if config.tfds and config.dataset in LAYOUTS and config.dataset != _of_tfds(config.tfds):
        raise InputError(
            f"config.dataset={config.dataset} is not what config.tfds={config.tfds} has: unset one"
        )
    known = LAYOUTS.get(benchmark_name(config), Layout("", None, ()))
    layout = Layout(
        config.image_dir or known.image_dir,
        config.split_file or known.split_file,
        tuple(config.templates) or known.templates,
    )
    if not layout.image_dir and not config.tfds:
        near = difflib.get_close_matches(config.dataset, LAYOUTS, n=1)
        raise InputError(
            f"config.dataset={config.dataset!r} is not one of the benchmark's"
            + (f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(LAYOUTS)})")
            + "; for one of your own set config.image_dir, and config.split_file if it has one, or "
            "config.tfds"
        )
    if not layout.templates and not config.prompts_file:
        raise InputError(
            f"{name(config)} has no prompts: set config.templates=\"('a photo of a {{}}.',)\" or "
            "config.prompts_file"
        )
    return layout


def _classnames(splits, split_file):
    pairs = {(record.label, record.classname) for part in splits for record in part}
    names = dict(pairs)
    if len(pairs) > len(names):
        raise InputError(f"{split_file}: one class name for each label is expected")
    if sorted(names) != list(range(len(names))):
        raise InputError(f"{split_file}: labels must be 0 to {len(names) - 1}, each used")
    return [names[label] for label in range(len(names))]
