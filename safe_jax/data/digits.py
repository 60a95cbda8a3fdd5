"""Handwritten digits among clutter: real scans pasted into drawn scenes.

The scans are scikit-learn's: 1,797 digits of 8 x 8 pixels by 43 people (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository). Each is used once,
beside printed letters and shapes that tell nothing: a pool has to learn where to look.
"""

import json
import pathlib
import random
import shutil

import numpy as np
import PIL.Image

from safe_jax.data import scenes
from safe_jax.errors import InputError

FOLDER = "digits-1"  # a new number wherever other pictures are drawn
IMAGE_SIZE = 128
PER_CLASS = {"train": 40, "val": 20}  # the others, about 120, are for test
SIDES = (0.28, 0.45)  # of the digit and of the clutter, as parts of the image
CLUTTER = (2, 3)  # letters and shapes beside the digit, at least and at most


def make(root: pathlib.Path) -> None:
    """Writes images and `split.json`, with the digits' boxes, to `root/FOLDER`, once.

    Raises `InputError` where scikit-learn, which has the scans, is not installed.
    """
    folder = root / FOLDER
    if folder.exists():
        return
    unfinished = folder.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    content = {"train": [], "val": [], "test": [], "boxes": {}}
    for part, number, label, scan in _scans():
        path = f"{part}/{number:04}_{label}.png"
        pixels, box = _scene(random.Random(f"{part} {number}"), scan)
        file = unfinished / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(file, compress_level=1)
        content[part].append([path, label, scenes.DIGITS[label]])
        content["boxes"][path] = [box.left, box.top, box.left + box.side, box.top + box.side]
    (unfinished / "split.json").write_text(json.dumps(content))
    unfinished.rename(folder)


def _scans():
    """Part, number, label and 8-bit scan `(8, 8)` of each digit."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits are scikit-learn's, which is not installed: pip install 'safe_jax[digits]'"
        ) from None
    scans_n88, label_n = load_digits().images, load_digits().target
    taken = [0] * len(scenes.DIGITS)
    for number in random.Random(0).sample(range(len(label_n)), len(label_n)):
        label = int(label_n[number])
        taken[label] += 1
        part = "test"
        if taken[label] <= PER_CLASS["train"]:
            part = "train"
        elif taken[label] <= PER_CLASS["train"] + PER_CLASS["val"]:
            part = "val"
        yield part, number, label, (scans_n88[number] * (255 / 16)).astype(np.uint8)


def _scene(rng, scan):
    """Pixels of a scene with the scan in it, and the scan's box."""
    ground = rng.choice(list(scenes.COLOURS))
    kinds = rng.choices(("letter", "shape"), k=rng.randint(*CLUTTER))
    things = [scenes.random_thing(rng, kind, ground) for kind in ("digit", *kinds)]
    masks = {0: PIL.Image.fromarray(scan)}
    scene = scenes.draw(rng, IMAGE_SIZE, things, ground, SIDES, masks)
    return scene.pixels, scene.boxes[0]
