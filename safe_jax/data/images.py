"""Images as CLIP was trained on them: Pillow's bicubic resize, centre crop, RGB.

Everything before the normalisation is bit for bit what OpenAI's torchvision pipeline gives. Pixels
stay 8-bit as long as possible: that is what is cached, sent to devices and compared.
"""

import collections
import concurrent.futures
import itertools
import math
import pathlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from safe_jax.errors import InputError

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def preprocess(image: PIL.Image.Image, image_size: int) -> np.ndarray:
    """A Pillow image to what the model takes: float32 `(image_size, image_size, 3)`."""
    return normalize(center_crop(image, image_size))


def normalize(pixels):
    """8-bit pixels `(..., 3)` to CLIP's normalised float32; NumPy or JAX arrays."""
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


def center_crop(image: PIL.Image.Image, image_size: int) -> np.ndarray:
    """The middle of an image whose short side is scaled to `image_size`: uint8 `(s, s, 3)`."""
    size, left, top = _center(image.size, image_size)
    image = image.resize(size, PIL.Image.Resampling.BICUBIC)
    image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image.convert("RGB"))


def _center(size, image_size):
    """The size to scale to, and the crop's left and top in it."""
    width, height = size
    short = min(width, height)
    # int() and round() as torchvision has them: they decide by which pixel a crop is off.
    size = (int(image_size * width / short), int(image_size * height / short))
    left, top = (round((side - image_size) / 2) for side in size)
    return size, left, top


def box_in_center_crop(box, size: tuple[int, int], image_size: int) -> np.ndarray:
    """A box `[left, top, right, bottom]` in pixels of an image of `size`, in parts of its crop."""
    scaled, left, top = _center(size, image_size)
    scale = np.divide(scaled, size)
    corners = np.reshape(box, (2, 2)) * scale - (left, top)
    return (corners / image_size).clip(0, 1).ravel()


def random_crop(
    image: PIL.Image.Image, image_size: int, rng: random.Random, scale: tuple[float, float]
) -> np.ndarray:
    """A random resized crop, flipped half the time: uint8 `(s, s, 3)`.

    As torchvision's `RandomResizedCrop` draws it: an area of `scale` of the image, an aspect
    ratio log-uniform in (3/4, 4/3), ten tries, then the whole image's middle.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            break
    else:
        w = min(width, round(height * 4 / 3))
        h = min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    image = image.crop((left, top, left + w, top + h))
    image = image.resize((image_size, image_size), PIL.Image.Resampling.BICUBIC).convert("RGB")
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


class Crop(NamedTuple):
    """An image and which crop of it: random by `seed`, or the centre's where that is None.

    `path` is a file's, or whatever opens like one.
    """

    path: pathlib.Path
    seed: str | None = None


def load(crop: Crop, image_size: int, scale: tuple[float, float]) -> np.ndarray:
    """Decodes one crop: uint8 `(s, s, 3)`. Raises `InputError` naming a file that is damaged."""
    try:
        with crop.path.open("rb") as file, PIL.Image.open(file) as image:
            if crop.seed is None:
                return center_crop(image, image_size)
            return random_crop(image, image_size, random.Random(crop.seed), scale)
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise InputError(f"{crop.path} cannot be decoded: {error}") from error


def load_batches(
    batches: Iterable[Sequence[Crop]],
    image_size: int,
    scale: tuple[float, float],
    workers: int,
    ahead: int = 4,
) -> Iterator[np.ndarray]:
    """Decodes batches of crops, in order: uint8 `(len(batch), s, s, 3)` for each.

    Threads suffice, for Pillow works without Python's lock; `ahead` batches are kept under way.
    """
    batches = iter(batches)
    under_way = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for batch in itertools.islice(batches, ahead - len(under_way)):
                    under_way.append([pool.submit(load, c, image_size, scale) for c in batch])
                if not under_way:
                    return
                yield np.stack([future.result() for future in under_way.popleft()])
        finally:
            for future in itertools.chain.from_iterable(under_way):
                future.cancel()


def why_unreadable(path) -> str | None:
    """What keeps an image file from being used, or None.

    Reads a JPEG to its end, but at an eighth of the size, which costs a third of decoding it.
    """
    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            image.draft("L", (1, 1))
            image.load()
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        return f"cannot be decoded: {error}"
    return None
