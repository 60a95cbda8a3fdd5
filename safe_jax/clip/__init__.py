"""The pre-trained model: load it, preprocess images, tokenize texts.

from safe_jax import clip

model = clip.load("weights/RN50")
image = clip.preprocess(PIL.Image.open("cat.jpg"), model.image_size)
features = model.encode_image(image[None])
text = model.encode_text(clip.tokenize(["a photo of a cat."]))
"""

import pathlib

import jax
import jax.numpy as jnp
from etils import epath
from jax.typing import DTypeLike

from safe_jax.clip import download, weights
from safe_jax.clip.config import PRESETS, CLIPConfig
from safe_jax.clip.model import CLIP
from safe_jax.clip.tokenizer import tokenize
from safe_jax.data.images import preprocess
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

__all__ = ["CLIP", "PRESETS", "CLIPConfig", "load", "locate", "preprocess", "tokenize"]

CACHE_DIR = "~/.cache/safe_jax"


def locate(
    name_or_path: epath.PathLike, cache_dir: epath.PathLike = CACHE_DIR
) -> pathlib.Path | epath.Path:
    """The Orbax directory of a name or a path; the weights of a name are obtained on first use.

    Raises `InputError` where there is no such directory, or no such name.
    """
    if name_or_path == "small":
        return download.unpack_small(cache_dir)
    if name_or_path in PRESETS:
        return download.fetch(str(name_or_path), cache_dir)
    path = paths.parse(name_or_path)
    if path.is_file():
        raise InputError(
            f"{path} is a file: convert it, `python tools/convert_torch_weights.py {path} DEST`, "
            "and name DEST"
        )
    if not path.exists():
        raise InputError(
            f"{path}: no such directory of converted weights; make it with "
            f"`python tools/convert_torch_weights.py CHECKPOINT {path}`, or use one of "
            f"{', '.join(PRESETS)}, small (ViTs have no attention pool)"
        )
    return path


def load(
    name_or_path: epath.PathLike,
    dtype: DTypeLike = jnp.float32,
    sharding: jax.sharding.Sharding | None = None,
    cache_dir: epath.PathLike = CACHE_DIR,
) -> CLIP:
    """The model of a name or of an Orbax directory.

    Args:
        name_or_path: `RN50`, `RN101`, `RN50x4`, `RN50x16`, `RN50x64` (OpenAI's), `small` (this
            package's), or a directory that `tools/convert_torch_weights.py` wrote.
        dtype: of the trunk's computations; parameters are float32 in any case.
        sharding: of the arrays; they are on the first device by default.
        cache_dir: the folder for downloaded checkpoints and for what they are converted to.

    Raises `InputError` where no weights are found.
    """
    return weights.load(locate(name_or_path, cache_dir), dtype, sharding)
