"""The pre-trained model: load it, preprocess images, tokenize texts.

from safe_jax import clip

model = clip.load("weights/RN50")
image = clip.preprocess(PIL.Image.open("cat.jpg"), model.image_size)
features = model.encode_image(image[None])
text = model.encode_text(clip.tokenize(["a photo of a cat."]))
"""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from etils import epath
from jax.typing import DTypeLike

from safe_jax.checkpoints import weights
from safe_jax.clip import download
from safe_jax.clip.config import PRESETS, CLIPConfig
from safe_jax.clip.download import LICENCES, NAMES, fetch
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP
from safe_jax.clip.tokenizer import tokenize
from safe_jax.data import images
from safe_jax.data.preprocessing import Preprocessing, normalize

__all__ = [
    "CACHE_DIR", "CLIP", "FAMILY", "LICENCES", "NAMES", "PRESETS", "CLIPConfig", "fetch", "load",
    "preprocess", "tokenize",
]  # fmt: skip

CACHE_DIR = "~/.cache/safe_jax"


def load(
    name_or_path: epath.PathLike,
    dtype: DTypeLike = jnp.float32,
    sharding: jax.sharding.Sharding | None = None,
    cache_dir: epath.PathLike = CACHE_DIR,
) -> CLIP:
    """The model of a name or of an Orbax directory.

    Args:
        name_or_path: `RN50`, `RN101`, `RN50x4`, `RN50x16`, `RN50x64` (OpenAI's), `small` (this
            package's), another of `NAMES`, or a directory that `tools/convert_torch_weights.py`
            wrote.
        dtype: of the trunk's computations; parameters are float32 in any case.
        sharding: of the arrays; they are on the first device by default.
        cache_dir: the folder for downloaded checkpoints and for what they are converted to.

    Raises `InputError` where no weights are found.
    """
    if name_or_path in NAMES:
        directory = download.fetch(str(name_or_path), cache_dir)
    else:
        directory = weights.existing(name_or_path, NAMES)
    return weights.load(directory, (FAMILY,), dtype, sharding)


def preprocess(image: PIL.Image.Image, image_size: int) -> np.ndarray:
    """Crops and normalises an image for a CLIP: float32 `(image_size, image_size, 3)`.

    Raises `TypeError` for anything but a Pillow image, and `InputError` as `images.whole` does.
    """
    if not isinstance(image, PIL.Image.Image):
        raise TypeError(
            f"a PIL.Image.Image is expected, not {type(image).__name__}: PIL.Image.open reads a "
            "file, PIL.Image.fromarray takes an array"
        )
    return normalize(images.whole(image, Preprocessing(size=int(image_size))))
