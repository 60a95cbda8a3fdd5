"""A CLIP of a few hundred thousand random weights and pictures of coloured patches.

The weights know nothing, so zero-shot is at chance; tuning learns the colours all the same. This
file is also the config of a run on them; what is left out there is where `make` put them.
"""

import functools
import json
import pathlib

import numpy as np
import PIL.Image
from ml_collections import FrozenConfigDict

from configs import default
from safe_jax.checkpoints import trees, weights
from safe_jax.clip.config import CLIPConfig
from safe_jax.clip.model import CLIP

CONFIG = CLIPConfig(
    embed_dim=32,
    image_size=64,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    text_width=64,
    text_layers=1,
)
COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 60, 200),
    "dark_grey": (70, 70, 70),
}
COUNTS = {"train": 10, "val": 6, "test": 12}


def leaves(config=CONFIG, seed=0):
    """Random weights by path, of the scale that each layer would start with.

    NumPy draws them: to compile JAX's initializers takes many times as long.
    """
    rng = np.random.default_rng(seed)
    return {
        path: _initial(rng, path.rsplit("/", 1)[-1], shape)
        for path, shape in _shapes(config).items()
    }


@functools.cache
def _shapes(config):
    return {p: x.shape for p, x in trees.flatten(trees.abstract_model(config, kind=CLIP)).items()}


def _initial(rng, name, shape):
    if name in ("bias", "mean"):
        return np.zeros(shape, np.float32)
    if name in ("scale", "var"):
        return np.ones(shape, np.float32)
    if name == "logit_scale":
        return np.float32(np.log(1 / 0.07))
    inputs = shape[-1] if "embedding" in name else np.prod(shape[:-1])
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(inputs))


def make(root: pathlib.Path) -> None:
    """Writes `clip_tiny/` (Orbax), `patches/images/` and `patches/split.json` under `root`."""
    weights.save(root / "clip_tiny", CONFIG, leaves())
    rng = np.random.default_rng(0)
    split = {}
    for part, count in COUNTS.items():
        split[part] = []
        for label, (name, colour) in enumerate(COLOURS.items()):
            for number in range(count):
                path = f"{name}/{part}_{number:02}.jpg"
                file = root / "patches" / "images" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                _picture(rng, colour).save(file, quality=90)
                split[part].append([path, label, name])
    (root / "patches" / "split.json").write_text(json.dumps(split))


def _picture(rng, colour):
    height, width = rng.integers(64, 120, 2)
    pixels = rng.integers(0, 256, (height, width, 3))
    top, left = rng.integers(0, 30, 2)
    pixels[top : top + 32, left : left + 32] = colour + rng.normal(0, 12, (32, 32, 3))
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def get_config():
    config = default.get_config()
    config.dataset = "patches"
    config.image_dir = "patches/images"
    config.split_file = "patches/split.json"
    config.templates = ("a photo of a {} thing.",)
    config.learning_rate = 1e-3
    return config


def config(root, **knobs):
    """The config for what `make` wrote under `root`, but for a few steps, with `knobs` changed."""
    config = get_config()
    config.update(
        data_root=str(root),
        weights=str(root / "clip_tiny"),
        shots=(2, 4),
        seeds=(1,),
        epochs=2,
        batch_size=8,
        trunk_batch_size=4,
        workers=2,
        warmup_epochs=0.0,
        dtype="float32",
    )
    config.update(knobs)
    return config


def freeze(config, **knobs):
    """A copy that cannot change, as the library takes it, with `knobs` changed."""
    return FrozenConfigDict(dict(config, **knobs))
