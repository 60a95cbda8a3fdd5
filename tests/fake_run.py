"""Rows whose numbers are known, as they stand in a file, and a directory as a run leaves it."""

import json

import PIL.Image

from safe_jax.experiment.results import Row
from safe_jax.runtime import schema

GRID = [0.0, 0.5, 1.0]
GAIN = {1: 4.0, 2: 8.0}  # points over zero-shot with seed 2; with seeds 1 and 3 a point off


def rows(seeds=(1, 2, 3), gain=1.0, fixed=False, **common):
    """Zero-shot 40 %, SAFE 44 ± 1 with a shot and 48 ± 1 with two; alpha 0.5 is chosen."""
    common = {
        "dataset": "pets", "config_hash": "c0ffee", "weights": "RN50@1234", "split": "test",
        "images": "digest",
    } | common  # fmt: skip
    found = []
    for shots, points in GAIN.items():
        for seed in seeds:
            key = {"shots": shots, "seed": seed, "seconds": 1.5} | common
            found.append(key | {"method": "zero_shot", "accuracy": 40.0, "selection": "none"})
            accuracy = 40.0 + gain * points + seed - 2
            curve = {"alpha": GRID, "val": [30.0, 60.0, 50.0], "eval": [40.0, accuracy, 41.0]}
            if fixed:
                curve = {"alpha": [0.5], "eval": [accuracy]}
            found.append(
                key
                | {
                    "method": "safe",
                    "accuracy": accuracy,
                    "selection": "fixed" if fixed else "few_shot_val",
                    "alpha": 0.5,
                    "curve": curve,
                    "losses": [2.0, 1.0, 0.5],
                }
            )
    return found


# What rows have that were measured on the images, and with the weights, of published figures.
PETS = {
    "dataset": "oxford_pets", "classes": 37, "eval_images": 3669, "weights": "RN50@1234",
    "released": "RN50",
}  # fmt: skip
# Each of them alone takes the published figures away.
NOT_PETS = [
    {"split": "val"}, {"dataset": "pets"}, {"classes": 10}, {"eval_images": 1000},
    {"released": "RN101"}, {"released": None}, {"classes": None}, {"eval_images": None},
]  # fmt: skip


def parsed(found):
    """The rows as a report takes them."""
    return [schema.check(Row, row, "row: ") for row in found]


def example(name, label="seven", blended="seven"):
    return {
        "image": name,
        "label": label,
        "zero_shot": {"class": "one", "probability": 0.31},
        "blended": {"class": blended, "probability": 0.92},
        "attention": {
            "original": [[0.25, 0.25], [0.25, 0.25]],
            "tuned": [[0.7, 0.1], [0.1, 0.1]],
        },
    }


def put(directory, found, configs=()):
    """Writes a directory as a run leaves it."""
    (directory / "configs").mkdir(parents=True)
    (directory / "examples").mkdir()
    PIL.Image.new("RGB", (64, 64), "teal").save(directory / "examples" / "there.png")
    (directory / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    for config_hash, config in dict(configs).items():
        (directory / "configs" / f"{config_hash}.json").write_text(json.dumps(config))
    return directory
