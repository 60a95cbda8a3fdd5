"""Images as CLIP was trained on them: Pillow's bicubic resize, centre crop, RGB.

Everything before the normalisation is bit for bit what OpenAI's torchvision pipeline gives. Pixels
stay 8-bit as long as possible: that is what is cached, sent to devices and compared.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import math
import pathlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from safe_jax.runtime.errors import InputError

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

# Of the others, samples of more than 8 bits are cut off at 255 on the way to RGB, PA comes out
# black and La not at all.
MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
LONGEST = 100  # times the short side; what is scaled before it is cropped must fit the memory


def preprocess(image: PIL.Image.Image, image_size: int) -> np.ndarray:
    """A Pillow image to what the model takes: float32 `(image_size, image_size, 3)`."""
    return normalize(center_crop(image, int(image_size)))


def normalize(pixels):
    """8-bit pixels `(..., 3)` to CLIP's normalised float32; NumPy or JAX arrays."""
    return (pixels.astype(np.float32) / 255 - MEAN) / STD


def center_crop(image: PIL.Image.Image, image_size: int) -> np.ndarray:
    """The middle of an image whose short side is scaled to `image_size`: uint8 `(s, s, 3)`.

    Raises `InputError` for an image that CLIP's pipeline would not show as it is.
    """
    _check(image)
    size, left, top = _center(image.size, image_size)
    image = image.resize(size, PIL.Image.Resampling.BICUBIC)
    return _rgb(image.crop((left, top, left + image_size, top + image_size)))


def _check(image):
    """Raises `InputError` for an image that is not to be used; it need not be decoded yet."""
    width, height = image.size
    if width * height > (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
        raise InputError(_too_large())
    if image.mode not in MODES:
        raise InputError(
            f"an image of mode {image.mode}, which Pillow does not turn into RGB as it looks: save "
            "it with 8 bits a sample, in grey, RGB or RGBA"
        )
    if max(image.size) > LONGEST * min(image.size):
        raise InputError(
            f"an image of {width} x {height} px, one side more than {LONGEST} times the other: cut "
            "it, for of such a strip the centre crop would show next to nothing"
        )


def _too_large():
    return (
        f"an image of more than {PIL.Image.MAX_IMAGE_PIXELS} px, which may be a decompression "
        "bomb: scale it down"
    )


def _rgb(image):
    # Pillow warns of a palette's transparency, which RGB has no place for; the pixels are the same.
    image.info.pop("transparency", None)
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
    ratio log-uniform in (3/4, 4/3), ten tries, then the whole image's middle. Raises `InputError`
    as `center_crop` does.
    """
    _check(image)
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
    pixels = _rgb(image.resize((image_size, image_size), PIL.Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


class Crop(NamedTuple):
    """An image and which crop of it: random by `seed`, or the centre's where that is None.

    `path` is a file's, or whatever opens like one.
    """

    path: pathlib.Path
    seed: str | None = None


@contextlib.contextmanager
def _opened(path):
    """An image file; what goes wrong with it inside becomes an `InputError` without its path."""
    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("missing") from error
    # The second is a warning, raised where warnings are errors; elsewhere `_check` refuses.
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise InputError(_too_large()) from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise InputError(f"cannot be decoded: {error}") from error


def load(crop: Crop, image_size: int, scale: tuple[float, float]) -> np.ndarray:
    """Decodes one crop: uint8 `(s, s, 3)`.

    Raises `InputError` naming a file that is damaged or that `center_crop` would refuse.
    """
    try:
        with _opened(crop.path) as image:
            if crop.seed is None:
                return center_crop(image, image_size)
            return random_crop(image, image_size, random.Random(crop.seed), scale)
    except InputError as error:
        raise InputError(f"{crop.path}: {error}") from error


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

    def fill(pixels_bhwc, at, crop):
        # The threads copy, lest the one that reads the batches does nothing else.
        pixels_bhwc[at] = load(crop, image_size, scale)

    batches = iter(batches)
    under_way = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for batch in itertools.islice(batches, ahead - len(under_way)):
                    pixels_bhwc = np.empty((len(batch), image_size, image_size, 3), np.uint8)
                    futures = [pool.submit(fill, pixels_bhwc, at, c) for at, c in enumerate(batch)]
                    under_way.append((pixels_bhwc, futures))
                if not under_way:
                    return
                pixels_bhwc, futures = under_way[0]
                for future in futures:
                    future.result()
                under_way.popleft()
                yield pixels_bhwc
        finally:
            for future in itertools.chain.from_iterable(futures for _, futures in under_way):
                future.cancel()


def why_unreadable(path) -> str | None:
    """What keeps an image file from being used, or None.

    Reads a JPEG to its end, but at an eighth of the size, which costs a third of decoding it.
    """
    try:
        with _opened(path) as image:
            _check(image)
            image.draft("L", (1, 1))
            image.load()
    except InputError as error:
        return str(error)
    return None
