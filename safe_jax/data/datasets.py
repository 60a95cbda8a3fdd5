"""Loads the data set that settings describe: splits, classes, prompts."""

import dataclasses
import difflib
import itertools
import logging
import re
from typing import Annotated

from ml_collections import ConfigDict

from safe_jax.data import doubts, imagenet, prompts, readable, tfds
from safe_jax.data.layouts import CROSS, LAYOUTS, TRANSFER, Layout
from safe_jax.data.prompts import Prompts
from safe_jax.data.records import Boxes, Record, Splits, read_split_file
from safe_jax.runtime import paths, schema
from safe_jax.runtime.errors import InputError, listing
from safe_jax.runtime.paths import Path
from safe_jax.runtime.schema import ListOrTuple, Text, knob

log = logging.getLogger(__name__)

_OF_ONE_DATA_SET = ("image_dir", "split_file", "tfds", "templates", "prompts_file")


class DataSettings(schema.Model):
    """Which images are classified, and by which prompts. Empty paths are the benchmark's."""

    dataset: Text = knob(
        "", "of the benchmark by name (a, or a,b for several); else a name for your own"
    )
    data_root: Text = knob("data", "the folder that all paths are under")
    image_dir: Text = knob("", "the folder of the images")
    split_file: Text = knob("", "splits and labels as CoOp's; without it folders are classes")
    tfds: Text = knob(
        "", "or a data set that TFDS prepared there: name, name/config or name:version"
    )
    templates: Annotated[tuple[Text, ...], ListOrTuple] = knob(
        (), "prompts, each with one {}, averaged if several; none: those of the benchmark"
    )
    prompts_file: Text = knob("", "JSON, {class: [sentence, ...]}, which replaces the templates")
    unreadable: readable.Unreadable = knob(
        "refuse", "an image that cannot be used is an error; skip: it is left out, and counted"
    )
    cache_dir: Text = knob(
        "~/.cache/safe_jax", "downloads and banks; for RN50 196 KiB an image and view"
    )
    transfer: Annotated[tuple[Text, ...], ListOrTuple] = knob(
        (),
        "where to evaluate as well what was tuned: other data sets of the benchmark, with their "
        "classes and prompts; of a model tuned on ImageNet also imagenet_v2, imagenet_sketch, "
        "imagenet_a, imagenet_r",
    )


def read_settings(config: ConfigDict) -> DataSettings:
    """The settings of the data set in a config. Raises `InputError` for values of other types."""
    schema.check_complete(config, DataSettings.model_fields)
    values = {name: config[name] for name in DataSettings.model_fields}
    return schema.check(DataSettings, values, "config.")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set whose listing was read, but none of its images.

    Args:
        image_dir: what the records' paths are under: a folder, or a data set of TFDS, which gives
            images by `/` as a folder does.
        classnames: the class names by label.
        prompts: the sentences that describe each class, by label.
        boxes: by an image's path, where the labelled object is; some data sets have none.
        unreadable: how many images were left out, as they cannot be used.
    """

    name: str
    image_dir: Path | tfds.Prepared
    classnames: tuple[str, ...]
    prompts: Prompts
    splits: Splits
    boxes: Boxes
    unreadable: int = 0


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Images on which nothing is tuned or chosen, for what was tuned on a `Dataset`.

    Either they show some of the data set's classes (the variants of ImageNet), or they have
    classes of their own, each known by its prompts alone.

    Args:
        image_dir: as of a `Dataset`.
        classes: the labels in the data set of the classes that the images show, ascending; the
            model chooses among these only. Empty where the classes are others.
        records: the images; a label is the place of the class in `classes` or in `prompts`.
        prompts: the sentences that describe each class, where the classes are others.
        unreadable: how many images were left out, as they cannot be used.
    """

    name: str
    image_dir: Path | tfds.Prepared
    classes: list[int]
    records: list[Record]
    prompts: Prompts = ()
    unreadable: int = 0


def name(settings: DataSettings) -> str:
    """The data set's name: `settings.dataset`, else TFDS's name for it or its folder's name."""
    if settings.dataset:
        return settings.dataset
    if settings.tfds:
        return _of_tfds(settings.tfds)
    return paths.absolute(paths.parse(settings.image_dir)).name


def names(settings: DataSettings) -> list[str]:
    """The names in `settings.dataset`, which may be several: `a,b`."""
    found = [name.strip() for name in settings.dataset.split(",")]
    if len(found) > 1 and (not all(found) or len(set(found)) < len(found)):
        raise InputError(
            f"config.dataset={settings.dataset}: different data sets are expected: a,b"
        )
    return found


def _of_tfds(given: str) -> str:
    """The benchmark's name for a data set of TFDS, or else TFDS's."""
    base = re.split("[/:]", given)[0]
    return {x.tfds: benchmark for benchmark, x in LAYOUTS.items()}.get(base, base)


def benchmark_name(settings: DataSettings) -> str:
    """The name to look up in the benchmark, which a folder's name never is."""
    return name(settings) if settings.tfds else settings.dataset


def load(settings: DataSettings) -> Dataset:
    """Loads the data set that `settings.dataset` names, or that the other settings describe.

    Reads listings but no image. Raises `InputError` if settings are incomplete or contradict each
    other, and if files are missing or malformed.
    """
    root = paths.parse(settings.data_root)
    layout = describe(settings)
    image_dir = paths.join(root, layout.image_dir)
    boxes = {}
    if layout.make and not settings.tfds:
        layout.make(root)
    if settings.tfds:
        image_dir, splits, classnames = tfds.read(
            root, settings.tfds, paths.cache(settings.cache_dir)
        )
    elif layout.split_file:
        split_file = paths.join(root, layout.split_file)
        splits, boxes = read_split_file(split_file, image_dir)
        classnames = classnames_of(splits, split_file)
    else:
        splits, classnames = layout.read(image_dir)

    _check_names(splits)
    classnames = tuple(classname.replace("_", " ") for classname in classnames)
    doubts.warn(name(settings), splits, classnames)
    if settings.prompts_file:
        sentences = prompts.read(paths.join(root, settings.prompts_file), classnames)
    else:
        sentences = prompts.fill(layout.templates, classnames)
    prompts.warn_of_equal(sentences, classnames)
    return Dataset(name(settings), image_dir, classnames, sentences, splits, boxes)


def _check_names(splits: Splits) -> None:
    """Raises `InputError` for images whose names no bank and no row could hold."""
    odd = []
    for record in itertools.chain(*splits):
        try:
            record.path.encode()
        except UnicodeEncodeError:
            odd.append(ascii(record.path))
    if odd:
        raise InputError(f"{len(odd)} images have names that are not UTF-8:" + listing(odd))


def without_unreadable(data: Dataset, workers: int) -> Dataset:
    """The same without images that cannot be used, which are counted, and listed in the log.

    All are looked at, so that what is drawn does not depend on what is asked for. Raises
    `InputError` for a class that would have no image left to train on.
    """
    parts, count = readable.leave_out(data.splits._asdict(), data.image_dir, "skip", workers)
    return dataclasses.replace(data, splits=Splits(**parts), unreadable=count)


def transfer_without_unreadable(target: Transfer, workers: int) -> Transfer:
    """The same without the images that cannot be used, which are counted and listed in the log."""
    parts, count = readable.leave_out({"test": target.records}, target.image_dir, "skip", workers)
    return dataclasses.replace(target, records=parts["test"], unreadable=count)


def transfer_names(settings: DataSettings) -> list[str]:
    """The names in `settings.transfer`; a command line gives `a,b` as a single text."""
    return [name.strip() for given in settings.transfer for name in given.split(",")]


def load_transfer(settings: DataSettings, name: str) -> Transfer:
    """Loads one of `layouts.TRANSFER`, with the labels of the ImageNet in `settings`.

    Or one of `layouts.CROSS`: the test images of another data set, with its classes and prompts.
    """
    if name in CROSS:
        return _load_cross(settings, name)
    if name not in TRANSFER:
        raise InputError(
            f"config.transfer: {name!r} is not one of {', '.join((*TRANSFER, *CROSS))}"
        )
    root = paths.parse(settings.data_root)
    if settings.tfds:
        variant = TRANSFER[name].tfds
        image_dir, records, labels = tfds.read_variant(
            root, variant, paths.cache(settings.cache_dir)
        )
        return Transfer(name, image_dir, labels, records)
    image_dir = root / TRANSFER[name].image_dir
    imagenet_dir = settings.image_dir or LAYOUTS["imagenet"].image_dir
    classes = imagenet.read_classes(paths.join(root, imagenet_dir))
    records, labels = imagenet.read_variant(image_dir, classes, TRANSFER[name].whole)
    return Transfer(name, image_dir, labels, records)


def cross_settings(settings: DataSettings, name: str) -> DataSettings:
    """The settings of one of `layouts.CROSS`, beside the data set in `settings`.

    Their paths and prompts are of that data set alone.
    """
    changed = {field: DataSettings.model_fields[field].default for field in _OF_ONE_DATA_SET}
    if settings.tfds:
        changed["tfds"] = LAYOUTS[name].tfds or ""  # a folder, for those that TFDS does not have
    return settings.model_copy(update=changed | {"dataset": name})


def _load_cross(settings: DataSettings, name: str) -> Transfer:
    other = load(cross_settings(settings, name))
    return Transfer(name, other.image_dir, [], other.splits.test, other.prompts)


def describe(settings: DataSettings) -> Layout:
    """The layout that the settings give, completed by the benchmark's.

    Raises `InputError` where the settings contradict each other or are incomplete.
    """
    if settings.tfds and (settings.image_dir or settings.split_file):
        raise InputError("config.tfds has its own images: unset config.image_dir and split_file")
    if (
        settings.tfds
        and settings.dataset in LAYOUTS
        and settings.dataset != _of_tfds(settings.tfds)
    ):
        raise InputError(
            f"config.dataset={settings.dataset} is not what config.tfds={settings.tfds} has: "
            "unset one"
        )
    known = LAYOUTS.get(benchmark_name(settings), Layout("", None, ()))
    layout = known._replace(
        image_dir=settings.image_dir or known.image_dir,
        split_file=settings.split_file or known.split_file,
        templates=tuple(settings.templates) or known.templates,
    )
    if not layout.image_dir and not settings.tfds:
        near = difflib.get_close_matches(settings.dataset, LAYOUTS, n=1)
        raise InputError(
            f"config.dataset={settings.dataset!r} is not one of the benchmark's"
            + (f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(LAYOUTS)})")
            + "; for your own data set config.image_dir, "
            "and config.split_file if it has one, or config.tfds"
        )
    if not layout.templates and not settings.prompts_file:
        raise InputError(
            f"{name(settings)} has no prompts: set config.templates=\"('a photo of a {{}}.',)\" or "
            "config.prompts_file"
        )
    return layout


def classnames_of(splits: Splits, split_file: Path) -> list[str]:
    """The class names by label. Raises `InputError` where these are not one to one."""
    pairs = {(record.label, record.classname) for part in splits for record in part}
    names = dict(pairs)
    if len(pairs) > len(names):
        label, of_label = next((n, x) for n, x in sorted(pairs) if x != names[n])
        raise InputError(
            f"{split_file}: one class name for each label is expected, not {of_label!r} and "
            f"{names[label]!r} for label {label}"
        )
    if strange := sorted(names.keys() - set(range(len(names)))):
        raise InputError(
            f"{split_file}: labels must be 0 to {len(names) - 1}, each used, not {strange[0]}"
        )
    return [names[label] for label in range(len(names))]
