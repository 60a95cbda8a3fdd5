"""Images of the evaluation split: where both pools look, and the classes predicted."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import PIL.Image
from matplotlib import colormaps

from safe_jax.experiment.results import Example, Row
from safe_jax.report import summary
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
        cards = [_card(directory, example) for example in row.examples]
        shots = summary.plural(row.shots, "shot")
        return cls(summary.label(row.method), shots, row.seed, cells, cards)


def _card(directory: Path, example: Example) -> Card:
    maps = {
        "original": np.array(example.attention.original),
        "tuned": np.array(example.attention.tuned),
    }
    brightest = max(map_hw.max() for map_hw in maps.values())
    answers = {"zero_shot": example.zero_shot, "safe": example.blended}
    return Card(
        example.label,
        *_picture(directory / example.image),
        [
            Map(pool, _heat(map_hw / brightest), 100 * float(map_hw.max()))
            for pool, map_hw in maps.items()
        ],
        [
            Prediction(
                summary.label(method), made.name, made.probability, made.name == example.label
            )
            for method, made in answers.items()
        ],
    )


def _picture(path: Path) -> tuple[str | None, int, int]:
    """A picture as data URI, with width and height; None if it cannot be read."""
    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            image = image.convert("RGB")
    except OSError:
        return None, 0, 0
    image.thumbnail((_WIDEST, _WIDEST))
    return _data_uri(image, "jpeg", quality=85), *image.size


def _heat(map_hw: np.ndarray) -> str:
    """Colours for attention from 0 to 1, as data URI: the more, the brighter and denser."""
    pixels_hwc = _HEAT(map_hw)
    pixels_hwc[..., 3] = 0.5 + 0.3 * map_hw
    image = PIL.Image.fromarray((255 * pixels_hwc).round().astype(np.uint8))
    return _data_uri(image.resize((64, 64), PIL.Image.Resampling.BICUBIC), "png")


def _data_uri(image: PIL.Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
