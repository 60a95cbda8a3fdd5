"""Scenes drawn from a seed: glyphs and shapes of any colour on a textured ground.

`tools/pretrain_small_clip.py` trains the small CLIP on scenes and their captions; `digits.py`
pastes scans of handwriting into scenes.
"""

import functools
import math
import pathlib
import random
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

COLOURS = {
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "red": (205, 40, 40),
    "green": (40, 150, 60),
    "blue": (45, 70, 200),
    "yellow": (235, 205, 40),
    "orange": (240, 130, 30),
    "purple": (130, 50, 160),
    "brown": (120, 75, 40),
}
TEXTURES = ("plain", "striped", "dotted", "checked", "shaded", "grainy")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SHAPES = (
    "circle", "ring", "triangle", "square", "diamond", "pentagon", "star", "cross", "crescent",
)  # fmt: skip
# Matplotlib contains these fonts, so every machine draws the same scenes.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralItalic", "cmb10", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip

MASK_SIZE = 64
_OVERLAP = 0.05  # of the smaller box's area, at most


class Thing(NamedTuple):
    """A thing to paste: `kind` is digit, letter or shape; `name` is which one."""

    kind: str
    name: str
    colour: str


class Box(NamedTuple):
    """A square in an image, in pixels."""

    left: int
    top: int
    side: int


class Scene(NamedTuple):
    """Pixels uint8 `(size, size, 3)`; the things that were pasted, in order, and their boxes."""

    pixels: np.ndarray
    things: tuple[Thing, ...]
    boxes: tuple[Box, ...]
    texture: str
    ground: str  # its main colour


def draw(
    rng: random.Random,
    size: int,
    things: list[Thing],
    ground: str,
    sides: list[tuple[float, float]],
    masks: dict[int, PIL.Image.Image] | None = None,
) -> Scene:
    """Draws `things` where they do not hide each other; those without room are left out.

    Args:
        sides: least and greatest side of each thing, as parts of `size`.
        masks: by a thing's number, an 8-bit mask to draw it with, instead of a distorted glyph.
    """
    texture = rng.choice(TEXTURES)
    canvas = PIL.Image.fromarray(_ground(rng, size, COLOURS[ground], texture))
    drawn, boxes = [], []
    for number, thing in enumerate(things):
        box = _find_room(rng, size, sides[number], boxes)
        if box is None:
            continue
        mask = (masks or {}).get(number) or _distorted(rng, _mask(rng, thing))
        mask = mask.resize((box.side, box.side), PIL.Image.Resampling.BICUBIC)
        ink = PIL.Image.new("RGB", mask.size, _varied(rng, COLOURS[thing.colour]))
        canvas.paste(ink, (box.left, box.top), mask)
        drawn.append(thing)
        boxes.append(box)
    pixels = np.asarray(canvas, np.float32)
    pixels = pixels + _noise(rng, pixels.shape) * rng.choice((0, 4, 10))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return Scene(pixels, tuple(drawn), tuple(boxes), texture, ground)


def random_thing(rng: random.Random, kind: str, ground: str) -> Thing:
    """A thing of this kind, of another colour than the ground."""
    name = rng.choice({"digit": DIGITS, "letter": LETTERS, "shape": SHAPES}[kind])
    return Thing(kind, name, rng.choice([colour for colour in COLOURS if colour != ground]))


def _find_room(
    rng: random.Random, size: int, sides: tuple[float, float], boxes: list[Box]
) -> Box | None:
    for _ in range(40):
        side = round(size * rng.uniform(*sides))
        box = Box(rng.randint(0, size - side), rng.randint(0, size - side), side)
        if all(_shared(box, other) <= _OVERLAP * min(side, other.side) ** 2 for other in boxes):
            return box
    return None


def _shared(a: Box, b: Box) -> int:
    """The number of pixels that two boxes have in common."""
    across = min(a.left + a.side, b.left + b.side) - max(a.left, b.left)
    down = min(a.top + a.side, b.top + b.side) - max(a.top, b.top)
    return max(across, 0) * max(down, 0)


def _noise(rng: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(64)).standard_normal(shape, np.float32)


def _varied(rng: random.Random, colour: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + rng.randint(-20, 20))) for channel in colour)


@functools.cache
def _places(size: int) -> np.ndarray:
    """Row and column of every pixel, `(2, size, size)`."""
    return np.mgrid[:size, :size].astype(np.float32)


def _ground(rng: random.Random, size: int, colour: tuple[int, ...], texture: str) -> np.ndarray:
    """Pixels of the ground; its texture mixes the colour with a lighter or darker shade of it."""
    light = _varied(rng, colour)
    shift = rng.choice((-1, 1)) * rng.randint(25, 60)
    dark = tuple(min(255, max(0, channel + shift)) for channel in light)
    y, x = _places(size)
    angle, period = rng.uniform(0, math.pi), rng.uniform(size / 16, size / 5)
    u = (x * math.cos(angle) + y * math.sin(angle)) / period
    v = (y * math.cos(angle) - x * math.sin(angle)) / period
    if texture == "striped":
        share = u % 1 < 0.5
    elif texture == "dotted":
        share = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.08
    elif texture == "checked":
        share = (u % 1 < 0.5) ^ (v % 1 < 0.5)
    elif texture == "shaded":
        share = (u - u.min()) / (u.max() - u.min())
    elif texture == "grainy":
        share = 0.5 + 0.4 * _noise(rng, (size, size))
    else:
        share = np.zeros((size, size))
    pixels = np.array(light) + np.asarray(share, np.float32)[..., None] * np.subtract(dark, light)
    return pixels.clip(0, 255).astype(np.uint8)


def _mask(rng: random.Random, thing: Thing) -> PIL.Image.Image:
    if thing.kind == "shape":
        return _shape(thing.name)
    character = str(DIGITS.index(thing.name)) if thing.kind == "digit" else thing.name
    return _glyph(character, rng.choice(FONTS))


@functools.cache
def _glyph(character: str, font: str) -> PIL.Image.Image:
    """A character in the middle of a square mask, filling its height."""
    import matplotlib  # takes a second, and only drawing needs it

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    face = PIL.ImageFont.truetype(str(folder / f"{font}.ttf"), MASK_SIZE)
    left, top, right, bottom = face.getbbox(character)
    side = int(max(right - left, bottom - top))
    mask = PIL.Image.new("L", (side, side))
    place = ((side - (right - left)) / 2 - left, (side - (bottom - top)) / 2 - top)
    PIL.ImageDraw.Draw(mask).text(place, character, fill=255, font=face)
    return mask.resize((MASK_SIZE, MASK_SIZE), PIL.Image.Resampling.BICUBIC)


@functools.cache
def _shape(name: str) -> PIL.Image.Image:
    scale = 4  # drawn larger and then reduced, as Pillow does not smooth edges
    size = MASK_SIZE * scale
    mask = PIL.Image.new("L", (size, size))
    pen = PIL.ImageDraw.Draw(mask)
    whole = (0, 0, size - 1, size - 1)

    def polygon(corners: int, start: float, inner: float | None = None) -> None:
        """A regular polygon, with a corner on top at `start` 0; a star if `inner` is a radius."""
        radii = [1] if inner is None else [1, inner]
        count = corners * len(radii)
        angles = [2 * math.pi * (i + start) / count for i in range(count)]
        pen.polygon(
            [
                (size / 2 * (1 + r * math.sin(a)), size / 2 * (1 - r * math.cos(a)))
                for i, a in enumerate(angles)
                for r in [radii[i % len(radii)]]
            ],
            fill=255,
        )

    if name in ("circle", "ring", "crescent"):
        pen.ellipse(whole, fill=255)
    if name == "ring":
        pen.ellipse((size * 0.25, size * 0.25, size * 0.75, size * 0.75), fill=0)
    elif name == "crescent":
        pen.ellipse((size * 0.3, size * 0.05, size * 1.2, size * 0.95), fill=0)
    elif name == "square":
        pen.rectangle((size * 0.1, size * 0.1, size * 0.9, size * 0.9), fill=255)
    elif name == "triangle":
        polygon(3, 0)
    elif name == "diamond":
        pen.polygon(
            [(size / 2, 0), (size * 0.82, size / 2), (size / 2, size), (size * 0.18, size / 2)],
            fill=255,
        )
    elif name == "pentagon":
        polygon(5, 0)
    elif name == "star":
        polygon(5, 0, inner=0.42)
    elif name == "cross":
        pen.rectangle((size * 0.35, 0, size * 0.65, size), fill=255)
        pen.rectangle((0, size * 0.35, size, size * 0.65), fill=255)
    return mask.resize((MASK_SIZE, MASK_SIZE), PIL.Image.Resampling.BOX)


def _distorted(rng: random.Random, mask: PIL.Image.Image) -> PIL.Image.Image:
    """The mask turned, sheared, stretched, and sometimes as coarse as a small scan."""
    if rng.random() < 0.3:
        coarse = rng.randint(8, 16)
        mask = mask.resize((coarse, coarse), PIL.Image.Resampling.BOX)
    width, height = mask.size
    turn, shear = rng.gauss(0, 0.12), rng.gauss(0, 0.12)
    across, down = rng.uniform(1.0, 1.35), rng.uniform(1.0, 1.15)
    # Pillow expects the inverse map, from a place in the result to a place in the source.
    a, b = across * math.cos(turn), across * (math.sin(turn) + shear)
    d, e = -down * math.sin(turn), down * math.cos(turn)
    c = width / 2 - a * width / 2 - b * height / 2
    f = height / 2 - d * width / 2 - e * height / 2
    return mask.transform(
        mask.size, PIL.Image.Transform.AFFINE, (a, b, c, d, e, f), PIL.Image.Resampling.BICUBIC
    )
