"""The benchmark: where the files of each data set are, its name in TFDS, and its prompts.

Folders, split files and templates are those of CoOp and Tip-Adapter, so a data root that was made
for either can be used.
"""

from collections.abc import Callable
from typing import NamedTuple

from safe_jax.data import digits, folders, imagenet
from safe_jax.data.records import Splits, read_aircraft
from safe_jax.runtime.paths import Path


class Layout(NamedTuple):
    """Where the files of a data set are under the data root, and how they are read.

    Args:
        templates: the prompts, with `{}` for the class name.
        tfds: TFDS's name for the same data set.
        read: gives splits and class names by label from the image folder, without a split file.
        make: writes the files on first use, below the data root.
    """

    image_dir: str
    split_file: str | None
    templates: tuple[str, ...]
    tfds: str | None = None
    read: Callable[[Path], tuple[Splits, list[str]]] = folders.read
    make: Callable[[Path], None] | None = None


LAYOUTS = {
    "imagenet": Layout(
        "imagenet/images",
        None,
        (  # Tip-Adapter's seven
            "itap of a {}.",
            "a bad photo of the {}.",
            "a origami {}.",
            "a photo of the large {}.",
            "a {} in a video game.",
            "art of the {}.",
            "a photo of the small {}.",
        ),
        "imagenet2012",
        read=imagenet.read,
    ),
    "caltech101": Layout(
        "caltech-101/101_ObjectCategories",
        "caltech-101/split_zhou_Caltech101.json",
        ("a photo of a {}.",),
        "caltech101",
    ),
    "oxford_pets": Layout(
        "oxford_pets/images",
        "oxford_pets/split_zhou_OxfordPets.json",
        ("a photo of a {}, a type of pet.",),
        "oxford_iiit_pet",
    ),
    "stanford_cars": Layout(
        "stanford_cars",
        "stanford_cars/split_zhou_StanfordCars.json",
        ("a photo of a {}.",),
        "cars196",
    ),
    "oxford_flowers": Layout(
        "oxford_flowers/jpg",
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        ("a photo of a {}, a type of flower.",),
        "oxford_flowers102",
    ),
    "food101": Layout(
        "food-101/images",
        "food-101/split_zhou_Food101.json",
        ("a photo of {}, a type of food.",),
        "food101",
    ),
    "fgvc_aircraft": Layout(
        "fgvc_aircraft/images",
        None,
        ("a photo of a {}, a type of aircraft.",),
        read=read_aircraft,
    ),
    "sun397": Layout(
        "sun397/SUN397",
        "sun397/split_zhou_SUN397.json",
        ("a photo of a {}.",),
        "sun397",
    ),
    "dtd": Layout(
        "dtd/images",
        "dtd/split_zhou_DescribableTextures.json",
        ("{} texture.",),
        "dtd",
    ),
    "eurosat": Layout(
        "eurosat/2750",
        "eurosat/split_zhou_EuroSAT.json",
        ("a centered satellite photo of {}.",),
        "eurosat",
    ),
    "ucf101": Layout(
        "ucf101/UCF-101-midframes",
        "ucf101/split_zhou_UCF101.json",
        ("a photo of a person doing {}.",),
    ),
    "digits": Layout(
        f"{digits.FOLDER}/images",
        f"{digits.FOLDER}/split.json",
        ("a photo of the digit {}.",),
        make=digits.make,
    ),
}


# Data sets on which what was tuned on another is evaluated, with their own classes.
CROSS = tuple(name for name, layout in LAYOUTS.items() if name != "imagenet" and not layout.make)


class Variant(NamedTuple):
    """Test images of ImageNet's classes, for a model tuned on ImageNet with its prompts.

    A variant that is `whole` has all of the classes.
    """

    image_dir: str
    tfds: str
    whole: bool


TRANSFER = {
    "imagenet_v2": Variant(
        "imagenetv2/imagenetv2-matched-frequency-format-val",
        "imagenet_v2/matched-frequency",
        whole=True,
    ),
    "imagenet_sketch": Variant("imagenet-sketch/images", "imagenet_sketch", whole=True),
    "imagenet_a": Variant("imagenet-adversarial/imagenet-a", "imagenet_a", whole=False),
    "imagenet_r": Variant("imagenet-rendition/imagenet-r", "imagenet_r", whole=False),
}
