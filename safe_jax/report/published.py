"""Published test accuracy (per cent) with CLIP's released RN50, for comparison.

It was measured by another protocol than ours: name that wherever a figure is shown.
"""

WEIGHTS = "RN50"
METHOD = "tip_adapter_f"
PROTOCOL = (
    "one seed; the full validation set, on ImageNet the test images; the epoch picked on test"
)
SOURCE = "Tip-Adapter (arXiv 2207.09519), as public repositories give its figures"
SHOTS = (1, 2, 4, 8, 16)

# By data set: zero-shot, then Tip-Adapter-F for each of SHOTS.
_ACCURACY = {
    "imagenet": (60.32, (61.13, 61.69, 62.52, 64.00, 65.51)),
    "caltech101": (85.92, (89.33, 89.74, 90.56, 91.44, 92.86)),
    "dtd": (42.20, (49.65, 53.72, 57.39, 62.71, 66.55)),
    "eurosat": (37.52, (59.53, 66.15, 74.12, 77.93, 84.54)),
    "fgvc_aircraft": (17.10, (20.22, 23.19, 25.80, 30.21, 35.55)),
    "food101": (77.32, (77.51, 77.81, 78.24, 78.64, 79.43)),
    "oxford_flowers": (66.02, (79.98, 82.30, 88.83, 91.51, 94.80)),
    "oxford_pets": (85.83, (87.00, 87.03, 87.54, 88.09, 89.70)),
    "stanford_cars": (55.74, (58.86, 61.50, 64.57, 69.25, 75.74)),
    "sun397": (58.52, (62.50, 63.64, 66.21, 68.87, 71.47)),
    "ucf101": (61.35, (64.87, 66.43, 70.55, 74.25, 78.03)),
}


def accuracy(dataset: str, split: str) -> dict[str, dict[int, float]]:
    """Published accuracy by method and shots; empty where none was published of these images."""
    if dataset not in _ACCURACY or split != "test":
        return {}
    zero_shot, tuned = _ACCURACY[dataset]
    return {
        "zero_shot": dict.fromkeys(SHOTS, zero_shot),
        METHOD: dict(zip(SHOTS, tuned, strict=True)),
    }
