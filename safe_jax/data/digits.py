"""Handwritten digits among clutter: real scans pasted into drawn scenes.

The scans are scikit-learn's: 1,797 digits of 8 x 8 pixels by 13 people (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository). Each is used once.
Each scene also has a printed digit of another class, which a model that knows print reads more
easily, and small letters or shapes: the attention pool has to learn where to look.

    python -m safe_jax.data.digits photos    # as a folder of one's own: photos/train/seven/0001.png
"""

import argparse
import concurrent.futures
import contextlib
import json
import logging
import pathlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image

from safe_jax.data import scenes
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

FOLDER = "digits-1"  # the number changes whenever the pictures do
IMAGE_SIZE = 128
PER_CLASS = {"train": 50, "val": 50}  # the rest, about 80, are the test set
SCAN_SIDE, PRINT_SIDE, SMALL_SIDE = (0.38, 0.5), (0.28, 0.38), (0.14, 0.22)  # parts of the image
SMALL_THINGS = (1, 2)  # letters and shapes, at least and at most


def make(root: paths.Path) -> None:
    """Writes images and `split.json`, with the digits' boxes, to `root/FOLDER` unless it exists.

    Raises `InputError` for a bucket, and if scikit-learn, which contains the scans, is missing.
    """
    if not isinstance(root, pathlib.Path):
        raise InputError(f"config.data_root={root}: the digits are drawn on a disk of this machine")
    folder = root / FOLDER
    if folder.exists():
        return
    with paths.lock(folder.with_suffix(".lock")):  # another run may be drawing: let it finish
        if not folder.exists():
            log.info("drawing the digits' scenes in %s", folder)
            with paths.whole_folder(folder) as unfinished:
                _draw(unfinished)


class _Drawn(NamedTuple):
    part: str
    number: int
    label: int
    pixels: np.ndarray
    box: scenes.Box


def _draw(folder: pathlib.Path) -> None:
    rows = {"train": [], "val": [], "test": []}
    boxes = {}
    with _saving() as save:
        for part, number, label, pixels, box in _scenes():
            path = f"{part}/{number:04}_{label}.png"
            save(pixels, folder / "images" / path)
            rows[part].append([path, label, scenes.DIGITS[label]])
            boxes[path] = [box.left, box.top, box.left + box.side, box.top + box.side]
    (folder / "split.json").write_text(json.dumps(rows | {"boxes": boxes}))


def _draw_folders(folder: pathlib.Path) -> None:
    """The same pictures as a user has photos: in a folder for each class of each split."""
    with _saving() as save:
        for part, number, label, pixels, _ in _scenes():
            save(pixels, folder / part / scenes.DIGITS[label] / f"{number:04}.png")


@contextlib.contextmanager
def _saving() -> Iterator[Callable[[np.ndarray, pathlib.Path], None]]:
    """A function as `_save`, which threads do while the next scenes are drawn."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        saved = []
        yield lambda pixels, file: saved.append(pool.submit(_save, pixels, file))
        for one in saved:
            one.result()


def _save(pixels: np.ndarray, file: pathlib.Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(file, compress_level=1)


def _scenes() -> Iterator[_Drawn]:
    for part, number, label, scan in _scans():
        pixels, box = _scene(random.Random(f"{part} {number}"), label, scan)
        yield _Drawn(part, number, label, pixels, box)


def _scans() -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Part, number, label and 8-bit scan `(8, 8)` of each digit."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the digits are scikit-learn's, which is not installed: pip install 'safe_jax[digits]'"
        ) from None
    pixels_nf, label_n = load_digits(return_X_y=True)
    scans_n88 = np.asarray(pixels_nf).reshape(-1, 8, 8)
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


def _scene(rng: random.Random, label: int, scan: np.ndarray) -> tuple[np.ndarray, scenes.Box]:
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


def main(argv: list[str]) -> int:
    """Draws the scenes into a new folder; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_jax.data.digits",
        description="Draws handwritten digits in scenes, in a folder for each class of each split.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="the folder to make")
    folder = parser.parse_args(argv).folder
    try:
        if folder.exists():
            raise InputError(f"{folder} exists already: remove it, or choose another folder")
        with paths.whole_folder(folder) as unfinished:
            _draw_folders(unfinished)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
