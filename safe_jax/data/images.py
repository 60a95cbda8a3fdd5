"""Images as a backbone was trained on them: Pillow's resize, for CLIP a centre crop, RGB.

Everything before the normalisation gives the same bits as OpenAI's torchvision pipeline. Pixels are
cached and sent to devices as 8-bit integers, and normalised last.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image

from safe_jax.data.openable import InMemory, Openable
from safe_jax.data.preprocessing import Preprocessing
from safe_jax.runtime import files
from safe_jax.runtime.errors import InputError

_RESAMPLING = {name.lower(): one for name, one in PIL.Image.Resampling.__members__.items()}

# From other modes, Pillow's conversion to RGB clips samples of more than 8 bits at 255, turns PA
# black, and fails for La.
MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
LONGEST = 100  # times the short side: an image is scaled before it is cropped, and must fit memory


def whole(image: PIL.Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """An image as a model looks at it whole: uint8 `(s, s, 3)`.

    Raises `InputError` for an image that CLIP's pipeline would distort, or that is too large.
    """
    size, resampling = preprocessing.size, _RESAMPLING[preprocessing.interpolation]
    if preprocessing.fit == "crop":
        return center_crop(image, size, resampling)
    _check(image)
    # To RGB first, as the processors of SigLIP do; OpenAI's code has it the other way round.
    return np.asarray(PIL.Image.fromarray(_rgb(image)).resize((size, size), resampling))


def center_crop(
    image: PIL.Image.Image, image_size: int,
    resampling: PIL.Image.Resampling = PIL.Image.Resampling.BICUBIC,
) -> np.ndarray:  # fmt: skip
    """The middle of an image whose short side is scaled to `image_size`: uint8 `(s, s, 3)`.

    Raises `InputError` for an image that CLIP's pipeline would distort, or that is too large.
    """
    _check(image)
    size, left, top = _center(image.size, image_size)
    image = image.resize(size, resampling)
    return _rgb(image.crop((left, top, left + image_size, top + image_size)))


def _check(image: PIL.Image.Image) -> None:
    """Raises `InputError` for an image that cannot be used; the header suffices to tell."""
    width, height = image.size
    if width * height > (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
        raise InputError(_too_large())
    if image.mode not in MODES:
        raise InputError(
            f"an image of mode {image.mode}, which Pillow cannot convert to RGB faithfully: save "
            "it with 8 bits a sample, in grey, RGB or RGBA"
        )
    if max(image.size) > LONGEST * min(image.size):
        raise InputError(
            f"an image of {width} x {height} px, one side more than {LONGEST} times the other: cut "
            "it, as the centre crop would show almost nothing of such a strip"
        )


def _too_large() -> str:
    return (
        f"an image of more than {PIL.Image.MAX_IMAGE_PIXELS} px, which may be a decompression "
        "bomb: scale it down"
    )


def _rgb(image: PIL.Image.Image) -> np.ndarray:
    # Otherwise Pillow warns that RGB cannot keep a palette's transparency; the pixels are the same.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))


def _center(size: tuple[int, int], image_size: int) -> tuple[tuple[int, int], int, int]:
    """The size to scale to, and the crop's left and top in it."""
    width, height = size
    short = min(width, height)
    # int() and round() as in torchvision: another rounding would shift the crop by a pixel.
    size = (int(image_size * width / short), int(image_size * height / short))
    left, top = (round((side - image_size) / 2) for side in size)
    return size, left, top


def box_in_view(
    box: npt.ArrayLike, size: tuple[int, int], preprocessing: Preprocessing
) -> np.ndarray:
    """Converts a box of an image from pixels to parts of what `whole` shows of it, `(4,)`.

    Args:
        box: left, top, right, bottom.
        size: width and height of the image.
    """
    image_size = preprocessing.size
    scaled, left, top = (image_size, image_size), 0, 0
    if preprocessing.fit == "crop":
        scaled, left, top = _center(size, image_size)
    scale = np.divide(scaled, size)
    corners = np.reshape(box, (2, 2)) * scale - (left, top)
    return (corners / image_size).clip(0, 1).ravel()


def random_crop(
    image: PIL.Image.Image,
    preprocessing: Preprocessing,
    rng: random.Random,
    scale: tuple[float, float],
) -> np.ndarray:
    """A random resized crop, flipped half the time: uint8 `(s, s, 3)`.

    Drawn as by torchvision's `RandomResizedCrop`: an area uniform in `scale` of the image's, an
    aspect ratio log-uniform in (3/4, 4/3); if ten tries do not fit, the largest crop in the middle.
    Raises `InputError` as `whole` does.
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
    resampling = _RESAMPLING[preprocessing.interpolation]
    pixels = _rgb(image.resize((preprocessing.size, preprocessing.size), resampling))
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


class Crop(NamedTuple):
    """An image and a crop of it: random by `seed`, or the centre crop where that is None."""

    path: Openable
    seed: str | None = None


@contextlib.contextmanager
def opened(path: Openable) -> Iterator[PIL.Image.Image]:
    """Yields an image file; errors in the block become an `InputError` that does not name it."""
    try:
        if isinstance(path, InMemory):
            yield path.image.copy()  # reading an image changes it: `info`, and a draft's size
            return
        with files.opened(path) as file, PIL.Image.open(file) as image:
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("missing") from error
    # The second is a warning, raised if warnings are errors; otherwise `_check` refuses the image.
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise InputError(_too_large()) from error
    except Exception as error:  # a damaged file can make Pillow's plugins raise anything
        reason = getattr(error, "strerror", None) or error  # of the system, without its number
        if isinstance(error, PIL.UnidentifiedImageError):  # its text shows an object of Python's
            reason = "no format of images that Pillow knows"
        raise InputError(f"cannot be decoded: {reason}") from error


def load(crop: Crop, preprocessing: Preprocessing, scale: tuple[float, float]) -> np.ndarray:
    """Decodes one crop: uint8 `(s, s, 3)`.

    Raises `InputError` naming the file if it is damaged or if `whole` refuses it.
    """
    try:
        with opened(crop.path) as image:
            if crop.seed is None:
                return whole(image, preprocessing)
            return random_crop(image, preprocessing, random.Random(crop.seed), scale)
    except InputError as error:
        raise InputError(f"{crop.path}: {error}") from error


def load_batches(
    batches: Iterable[Sequence[Crop]],
    preprocessing: Preprocessing,
    scale: tuple[float, float],
    workers: int,
    ahead: int = 4,
) -> Iterator[np.ndarray]:
    """Decodes batches of crops, in order: uint8 `(len(batch), s, s, 3)` for each.

    Up to `ahead` batches are decoded ahead. Threads suffice, as Pillow releases Python's lock.
    Raises `InputError` as `load` does.
    """

    def decode(crop):
        return load(crop, preprocessing, scale)

    pixels = _decoded(batches, preprocessing.size, decode, workers, ahead)
    with contextlib.closing(pixels) as decoded:
        for pixels_bhwc, futures in decoded:
            for future in futures:
                future.result()
            yield pixels_bhwc


def load_readable(
    batches: Iterable[Sequence[Crop]], preprocessing: Preprocessing, workers: int, ahead: int = 4
) -> Iterator[tuple[np.ndarray, list[str | None]]]:
    """As `load_batches`, of whole images; and for each image None, or why it cannot be used.

    The pixels of an image that cannot be used are 0.
    """

    def decode(crop):
        return load(crop, preprocessing, (1, 1))

    pixels = _decoded(batches, preprocessing.size, decode, workers, ahead)
    with contextlib.closing(pixels) as decoded:
        for pixels_bhwc, futures in decoded:
            reasons: list[str | None] = []
            for pixels_hwc, future in zip(pixels_bhwc, futures, strict=True):
                error = future.exception()
                if error and not isinstance(error, InputError):
                    raise error
                if error:
                    pixels_hwc[...] = 0
                reasons.append(str(error.__cause__) if error else None)
            yield pixels_bhwc, reasons


def _decoded(batches, image_size, decode, workers, ahead):
    """The pixels of each batch, and a future for each image that fills its part of them."""

    def fill(pixels_bhwc, at, crop):
        # The threads copy, so that the consumer of the batches does not have to.
        pixels_bhwc[at] = decode(crop)

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
                yield under_way[0]
                under_way.popleft()
        finally:
            for future in itertools.chain.from_iterable(futures for _, futures in under_way):
                future.cancel()


def why_unreadable(path: Openable) -> str | None:
    """The reason why an image file cannot be used, or None.

    Reads a JPEG to its end, but at an eighth of the size, in a third of the time.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8: rename it"
    try:
        with opened(path) as image:
            _check(image)
            image.draft("L", (1, 1))
            image.load()
    except InputError as error:
        return str(error)
    return None
