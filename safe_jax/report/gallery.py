"""Cards of images: where both pools look, and the classes predicted."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import PIL.Image
from matplotlib import colormaps

from safe_jax.classifier.evaluation import Attention
from safe_jax.experiment.results import Answer, Example, Row
from safe_jax.report import summary
from safe_jax.runtime import paths
from safe_jax.runtime.errors import counted
from safe_jax.runtime.paths import Path

_WIDEST = 224  # pixels of a picture in the page
_HEAT = colormaps["inferno"]


class Map(NamedTuple):
    """The attention of a pool, to be laid over the picture."""

    pool: str
    heat: str  # data URI
    peak: float  # the largest share of a cell, in per cent


class Prediction(NamedTuple):
    method: str
    name: str
    probability: float
    right: bool


class Card(NamedTuple):
    """An image with its attention maps and predictions."""

    label: str
    picture: str | None  # data URI; None: missing
    width: int
    height: int
    maps: list[Map]
    predictions: list[Prediction]
    path: str | None = None  # where it is to be named

    @classmethod
    def of(
        cls,
        label: str,
        picture: bytes | None,
        attention: Attention | None,
        predictions: Sequence[tuple[str, Answer]],
        path: str | None = None,
    ) -> Self:
        """The card of an image file's bytes; `predictions` are methods by label, with answers."""
        made = [
            Prediction(method, answer.name, answer.probability, answer.name == label)
            for method, answer in predictions
        ]
        return cls(label, *_picture(picture), _maps(attention), made, path)


class Gallery(NamedTuple):
    """The examples of one row; `cells` is the size of the maps, as HxW."""

    method: str
    shots: str
    seed: int
    cells: str
    cards: list[Card]

    @classmethod
    def of(cls, directory: Path, rows: Sequence[Row]) -> Self | None:
        """The examples of the row with most shots and the lowest seed."""
        row = min(
            (row for row in rows if row.examples),
            key=lambda row: (-row.shots, row.seed),
            default=None,
        )
        if row is None:
            return None
        cells = "x".join(map(str, np.shape(row.examples[0].attention.tuned)))
        cards = [_of_example(directory, example) for example in row.examples]
        shots = counted(row.shots, "shot")
        return cls(summary.label(row.method), shots, row.seed, cells, cards)


def _of_example(directory: Path, example: Example) -> Card:
    picture = _read_inside(directory, example.image)
    answers = {"zero_shot": example.zero_shot, "safe": example.blended}
    predictions = [(summary.label(method), answer) for method, answer in answers.items()]
    return Card.of(example.label, picture, example.attention, predictions)


def _read_inside(directory: Path, path: str) -> bytes | None:
    """A file below a directory; None if it cannot be read.

    A row is data from elsewhere: what it names outside of its directory is no picture of it, and is
    not put into a page that may be handed on.
    """
    file, root = directory / path, directory
    try:
        if isinstance(file, pathlib.Path):
            file, root = file.resolve(), paths.absolute(directory)
        inside = file.is_relative_to(root) and ".." not in file.parts
        return file.read_bytes() if inside and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a NUL in the path, a link to itself
        return None


def _maps(attention: Attention | None) -> list[Map]:
    if attention is None:
        return []
    pools = {"original": np.array(attention.original), "tuned": np.array(attention.tuned)}
    brightest = max(map_hw.max() for map_hw in pools.values()) or 1.0
    return [
        Map(pool, _heat(map_hw / brightest), 100 * float(map_hw.max()))
        for pool, map_hw in pools.items()
    ]


def _picture(content: bytes | None) -> tuple[str | None, int, int]:
    """A picture as data URI, with width and height; None if it cannot be read."""
    if content is None:
        return None, 0, 0
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            image = image.convert("RGB")
    except Exception:  # Pillow raises many kinds
        return None, 0, 0
    image.thumbnail((_WIDEST, _WIDEST))
    return _data_uri(image, "jpeg", quality=85), *image.size


def heat_image(map_hw: np.ndarray) -> PIL.Image.Image:
    """Colours for attention from 0 to 1, a pixel a cell: the more, the brighter and denser."""
    pixels_hwc = _HEAT(map_hw)
    pixels_hwc[..., 3] = 0.5 + 0.3 * map_hw
    return PIL.Image.fromarray((255 * pixels_hwc).round().astype(np.uint8))


def _heat(map_hw: np.ndarray) -> str:
    """The same as data URI."""
    return _data_uri(heat_image(map_hw).resize((64, 64), PIL.Image.Resampling.BICUBIC), "png")


def _data_uri(image: PIL.Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
