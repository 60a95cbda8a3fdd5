"""Handwritten digits among clutter: real scans pasted into drawn scenes.

The scans are scikit-learn's: 1,797 digits of 8 x 8 pixels by 13 people (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository). Each is used once.
Beside it stands a printed digit of another class, which a model that knows print reads more easily,
and something small: a pool has to learn where to look.
"""

import fcntl
import json
import logging
import pathlib
import random
import shutil

import numpy as np
import PIL.Image

from safe_jax.data import scenes
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

FOLDER = "digits-1"  # a new number wherever other pictures are drawn
IMAGE_SIZE = 128
PER_CLASS = {"train": 50, "val": 50}  # the others, about 80, are for test
SCAN_SIDE, PRINT_SIDE, SMALL_SIDE = (0.38, 0.5), (0.28, 0.38), (0.14, 0.22)  # parts of the image
SMALL_THINGS = (1, 2)  # letters and shapes, at least and at most


def make(root: pathlib.Path) -> None:
    """Writes images and `split.json`, with the digits' boxes, to `root/FOLDER`, once.

    Raises `InputError` for a bucket, and where scikit-learn, which has the scans, is missing.
    """
    if paths.is_remote(root):
        raise InputError(f"config.data_root={root}: the digits are drawn on a disk of this machine")
    folder = root / FOLDER
    if folder.exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at it: let it finish
        if not folder.exists():
            _draw(folder)


def _draw(folder):
    log.info("drawing the digits' scenes in %s", folder)
    unfinished = folder.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    content = {"train": [], "val": [], "test": [], "boxes": {}}
    for part, number, label, scan in _scans():
        path = f"{part}/{number:04}_{label}.png"
        pixels, box = _scene(random.Random(f"{part} {number}"), label, scan)
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


def _scene(rng, label, scan):
    """Pixels of a scene with the scan in it, and the scan's box."""
    ground = rng.choice(list(scenes.COLOURS))
    others = [name for name in scenes.DIGITS if name != scenes.DIGITS[label]]
    scanned, printed = (scenes.random_thing(rng, "digit", ground) for _ in range(2))
    small = rng.choices(("letter", "shape"), k=rng.randint(*SMALL_THINGS))
    things = [scanned, printed._replace(name=rng.choice(others))]
    things += [scenes.random_thing(rng, kind, ground) for kind in small]
    sides = [SCAN_SIDE, PRINT_SIDE, *[SMALL_SIDE] * len(small)]
    masks = {0: PIL.Image.fromarray(scan)}
    scene = scenes.draw(rng, IMAGE_SIZE, things, ground, sides, masks)
    return scene.pixels, scene.boxes[0]
