"""Pictures of the evaluation split: where both pools look, and what is made of it."""

import base64
import dataclasses
import io

import numpy as np
import PIL.Image
from matplotlib import colormaps

from safe_jax.report import summary

_WIDEST = 224  # pixels of a picture in the page
_HEAT = colormaps["inferno"]


@dataclasses.dataclass(frozen=True)
class Map:
    """The attention of a pool, to be laid over the picture."""

    pool: str
    heat: str  # data URI
    peak: float  # the share of the cell with most, in per cent


@dataclasses.dataclass(frozen=True)
class Prediction:
    method: str
    name: str
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Card:
    label: str
    picture: str | None  # data URI; None: missing
    width: int
    height: int
    maps: list[Map]
    predictions: list[Prediction]


@dataclasses.dataclass(frozen=True)
class Gallery:
    method: str
    shots: str
    seed: int
    cells: str
    cards: list[Card]

    @classmethod
    def of(cls, directory, rows: list[dict]) -> "Gallery | None":
        """The examples of the run with most shots and the lowest seed."""
        rows = [row for row in rows if row.get("examples")]
        if not rows:
            return None
        row = min(rows, key=lambda row: (-row["shots"], row["seed"]))
        cells = "x".join(map(str, np.shape(row["examples"][0]["attention"]["tuned"])))
        cards = [_card(directory, example) for example in row["examples"]]
        shots = summary.plural(row["shots"], "shot")
        return cls(summary.label(row["method"]), shots, row["seed"], cells, cards)


def _card(directory, example):
    attention = {pool: np.array(map_hw) for pool, map_hw in example["attention"].items()}
    most = max(map_hw.max() for map_hw in attention.values())
    return Card(
        example["label"],
        *_picture(directory / example["image"]),
        [
            Map(pool, _heat(map_hw / most), 100 * float(map_hw.max()))
            for pool, map_hw in attention.items()
        ],
        [
            Prediction(
                method, made["class"], made["probability"], made["class"] == example["label"]
            )
            for method, made in (("zero-shot", example["zero_shot"]), ("SAFE", example["blended"]))
        ],
    )


def _picture(path):
    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            image = image.convert("RGB")
    except OSError:  # absent, or none that can be decoded
        return None, 0, 0
    image.thumbnail((_WIDEST, _WIDEST))
    return _data_uri(image, "jpeg", quality=85), *image.size


def _heat(map_hw):
    """What lies over a picture for attention from 0 to 1: the more, the brighter and denser."""
    pixels_hwc = _HEAT(map_hw)
    pixels_hwc[..., 3] = 0.5 + 0.3 * map_hw
    image = PIL.Image.fromarray((255 * pixels_hwc).round().astype(np.uint8))
    return _data_uri(image.resize((64, 64), PIL.Image.Resampling.BICUBIC), "png")


def _data_uri(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
