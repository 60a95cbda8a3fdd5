"""Published test accuracy (per cent) with CLIP's released RN50, for comparison.

It was measured by another protocol than ours: name that wherever a figure is shown. It is
shown only beside numbers of the same weights, classes and test images.
"""

from typing import NamedTuple

from safe_jax.experiment.results import Row

WEIGHTS = "RN50"
METHOD = "tip_adapter_f"
PROTOCOL = (
    "one seed; the full validation set, on ImageNet the test images; the epoch picked on test"
)
SOURCE = "Tip-Adapter (arXiv 2207.09519), as public repositories give its figures"
SHOTS = (1, 2, 4, 8, 16)


class _Published(NamedTuple):
    """How many classes and test images CoOp's split has, and the accuracy on them."""

    classes: int
    images: int
    zero_shot: float
    tuned: tuple[float, ...]  # Tip-Adapter-F, for each of SHOTS


_OF = {
    "imagenet": _Published(1_000, 50_000, 60.32, (61.13, 61.69, 62.52, 64.00, 65.51)),
    "caltech101": _Published(100, 2_465, 85.92, (89.33, 89.74, 90.56, 91.44, 92.86)),
    "dtd": _Published(47, 1_692, 42.20, (49.65, 53.72, 57.39, 62.71, 66.55)),
    "eurosat": _Published(10, 8_100, 37.52, (59.53, 66.15, 74.12, 77.93, 84.54)),
    "fgvc_aircraft": _Published(100, 3_333, 17.10, (20.22, 23.19, 25.80, 30.21, 35.55)),
    "food101": _Published(101, 30_300, 77.32, (77.51, 77.81, 78.24, 78.64, 79.43)),
    "oxford_flowers": _Published(102, 2_463, 66.02, (79.98, 82.30, 88.83, 91.51, 94.80)),
    "oxford_pets": _Published(37, 3_669, 85.83, (87.00, 87.03, 87.54, 88.09, 89.70)),
    "stanford_cars": _Published(196, 8_041, 55.74, (58.86, 61.50, 64.57, 69.25, 75.74)),
    "sun397": _Published(397, 19_850, 58.52, (62.50, 63.64, 66.21, 68.87, 71.47)),
    "ucf101": _Published(101, 3_783, 61.35, (64.87, 66.43, 70.55, 74.25, 78.03)),
}


def accuracy(row: Row) -> dict[str, dict[int, float]]:
    """Published accuracy by method and shots; empty where none is of what `row` was measured on.

    A data set of ten of the classes, or other weights, may well have the published name. What was
    tuned elsewhere is compared with zero-shot alone.
    """
    of = _OF.get(row.dataset)
    if of is None or row.split != "test" or row.released != WEIGHTS or row.is_base_to_new:
        return {}
    if (row.classes, row.eval_images) != (of.classes, of.images):
        return {}
    found = {"zero_shot": dict.fromkeys(SHOTS, of.zero_shot)}
    return found if row.tuned_on else found | {METHOD: dict(zip(SHOTS, of.tuned, strict=True))}
