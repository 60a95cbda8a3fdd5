"""The benchmark: where each data set's files lie, its classes and its prompts.

Folders, split files and templates are CoOp's and Tip-Adapter's, so a data root made for either
works here as it is.
"""

import dataclasses
import difflib
import logging
import pathlib
from typing import NamedTuple

from safe_jax.data import digits, sources
from safe_jax.errors import InputError

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Paths under the data root, and the prompt templates."""

    image_dir: str
    split_file: str | None
    templates: tuple[str, ...]


# FGVC-Aircraft has lists of its own in place of a split file and is not read yet.
LAYOUTS = {
    "imagenet": Layout(
        "imagenet/images",
        None,  # folders tell the splits
        (  # Tip-Adapter's seven
            "itap of a {}.",
            "a bad photo of the {}.",
            "a origami {}.",
            "a photo of the large {}.",
            "a {} in a video game.",
            "art of the {}.",
            "a photo of the small {}.",
        ),
    ),
    "caltech101": Layout(
        "caltech-101/101_ObjectCategories",
        "caltech-101/split_zhou_Caltech101.json",
        ("a photo of a {}.",),
    ),
    "oxford_pets": Layout(
        "oxford_pets/images",
        "oxford_pets/split_zhou_OxfordPets.json",
        ("a photo of a {}, a type of pet.",),
    ),
    "stanford_cars": Layout(
        "stanford_cars",
        "stanford_cars/split_zhou_StanfordCars.json",
        ("a photo of a {}.",),
    ),
    "oxford_flowers": Layout(
        "oxford_flowers/jpg",
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        ("a photo of a {}, a type of flower.",),
    ),
    "food101": Layout(
        "food-101/images",
        "food-101/split_zhou_Food101.json",
        ("a photo of {}, a type of food.",),
    ),
    "sun397": Layout(
        "sun397/SUN397",
        "sun397/split_zhou_SUN397.json",
        ("a photo of a {}.",),
    ),
    "dtd": Layout(
        "dtd/images",
        "dtd/split_zhou_DescribableTextures.json",
        ("{} texture.",),
    ),
    "eurosat": Layout(
        "eurosat/2750",
        "eurosat/split_zhou_EuroSAT.json",
        ("a centered satellite photo of {}.",),
    ),
    "ucf101": Layout(
        "ucf101/UCF-101-midframes",
        "ucf101/split_zhou_UCF101.json",
        ("a photo of a person doing {}.",),
    ),
    "digits": Layout(  # made on first use
        f"{digits.FOLDER}/images",
        f"{digits.FOLDER}/split.json",
        ("a photo of the digit {}.",),
    ),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set read from disk; its records' paths are under `image_dir`.

    `boxes` tells of some of them where the labelled object is, in pixels.
    """

    name: str
    image_dir: pathlib.Path
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    splits: sources.Splits
    boxes: dict[str, list[float]]


def load(config) -> Dataset:
    """The data set that `config.dataset` names, or that `image_dir` and `split_file` describe.

    Reads listings only, no image. Raises `InputError` where the description is incomplete or the
    files are not there.
    """
    root = pathlib.Path(config.data_root).expanduser()
    known = LAYOUTS.get(config.dataset, Layout("", "", ()))
    layout = Layout(
        config.image_dir or known.image_dir,
        config.split_file or known.split_file,
        tuple(config.templates) or known.templates,
    )
    if not config.dataset or "" in layout or not layout.templates:
        near = difflib.get_close_matches(config.dataset, LAYOUTS, n=1)
        raise InputError(
            f"config.dataset={config.dataset!r} is not one of the benchmark's that are read"
            + (f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(LAYOUTS)})")
            + "; for one of your own set config.image_dir, config.split_file and config.templates"
        )
    for template in layout.templates:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r}: one {{}} is expected, for the class name")

    if layout.split_file is None:
        splits, classnames = sources.read_imagenet(root / layout.image_dir)
        boxes = {}
    else:
        if config.dataset == "digits":
            digits.make(root)
        splits, boxes = sources.read_split_file(root / layout.split_file)
        pairs = {(record.label, record.classname) for part in splits for record in part}
        names = dict(pairs)
        if len(pairs) > len(names):
            raise InputError(
                f"{root / layout.split_file}: one class name for each label is expected"
            )
        if sorted(names) != list(range(len(names))):
            raise InputError(
                f"{root / layout.split_file}: labels must be 0 to {len(names) - 1}, each used"
            )
        classnames = [names[label] for label in range(len(names))]
    if shared := len({r.path for r in splits.train + splits.val} & {r.path for r in splits.test}):
        log.warning("%d images are in test and in train or val: results will flatter", shared)
    return Dataset(
        name=config.dataset,
        image_dir=root / layout.image_dir,
        classnames=tuple(name.replace("_", " ") for name in classnames),
        templates=layout.templates,
        splits=splits,
        boxes=boxes,
    )
