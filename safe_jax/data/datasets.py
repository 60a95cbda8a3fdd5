"""The benchmark: where each data set's files lie, its classes and its prompts.

Folders, split files and templates are CoOp's and Tip-Adapter's, so a data root made for either
works here as it is.
"""

import dataclasses
import difflib
import pathlib
from typing import NamedTuple

from safe_jax.data import sources
from safe_jax.errors import InputError


class Layout(NamedTuple):
    """Paths under the data root, and the prompt templates."""

    images: str
    split_file: str
    templates: tuple[str, ...]


LAYOUTS = {
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
}

# ImageNet has folders for a split file; the seven templates are Tip-Adapter's.
IMAGENET = Layout(
    "imagenet/images",
    "",
    (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set read from disk; `paths` turns its records into files."""

    name: str
    images: pathlib.Path
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    splits: sources.Splits

    def paths(self, records: list[sources.Record]) -> list[pathlib.Path]:
        return [self.images / record.path for record in records]


def load(config) -> Dataset:
    """The data set that `config.dataset` names, or that `config.images` and `split_file` describe.

    Reads listings only, no image. Raises `InputError` where the description is incomplete or the
    files are not there.
    """
    root = pathlib.Path(config.data_root).expanduser()
    layout = IMAGENET if config.dataset == "imagenet" else LAYOUTS.get(config.dataset)
    images = config.images or (layout and layout.images)
    split_file = config.split_file or (layout and layout.split_file)
    templates = tuple(config.templates) or (layout and layout.templates)
    if not (config.dataset and images and templates and (split_file or layout is IMAGENET)):
        near = difflib.get_close_matches(config.dataset, [*LAYOUTS, "imagenet"], n=1)
        raise InputError(
            f"{config.dataset!r} is no data set of the benchmark"
            + (f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(LAYOUTS)}, imagenet)")
            + "; for one of your own set config.images, config.split_file and config.templates"
        )
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r}: one {{}} is expected, for the class name")

    if split_file:
        splits = sources.read_split_file(root / split_file)
        names = {record.label: record.name for part in splits for record in part}
        if sorted(names) != list(range(len(names))):
            raise InputError(
                f"{root / split_file}: labels must be 0 to {len(names) - 1}, each used"
            )
        classnames = [names[label] for label in range(len(names))]
    else:
        splits, classnames = sources.read_imagenet((root / images).parent)
    return Dataset(
        name=config.dataset,
        images=root / images,
        classnames=tuple(name.replace("_", " ") for name in classnames),
        templates=templates,
        splits=splits,
    )
