"""How a backbone takes images: to which size, by which resize, with which mean and deviation.

This module loads no JAX.
"""

from typing import Annotated, Any, Literal

import numpy as np

from safe_jax.runtime import schema
from safe_jax.runtime.schema import ListOrTuple, NotNegative, Positive

Channels = Annotated[tuple[NotNegative, NotNegative, NotNegative], ListOrTuple]
Interpolation = Literal["bicubic", "bilinear"]

# CLIP's (openai/CLIP, clip/clip.py).
CLIP_MEAN = 0.48145466, 0.4578275, 0.40821073
CLIP_STD = 0.26862954, 0.26130258, 0.27577711


class Preprocessing(schema.Model):
    """How a whole image becomes `(size, size, 3)` pixels, and how these are normalised.

    `crop` scales the short side to `size` and takes the middle; `squash` scales both sides to it,
    whatever the aspect ratio. Pixels between 0 and 1 are normalised to `(x - mean) / std`. What is
    not given is as CLIP has it.
    """

    size: Positive
    fit: Literal["crop", "squash"] = "crop"
    interpolation: Interpolation = "bicubic"
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD


def normalize(pixels: Any, preprocessing: Preprocessing | None = None) -> Any:
    """Normalises 8-bit pixels `(..., 3)` to float32, as CLIP does where it is not said otherwise.

    Takes NumPy and JAX arrays.
    """
    mean, std = CLIP_MEAN, CLIP_STD
    if preprocessing:
        mean, std = preprocessing.mean, preprocessing.std
    pixels = pixels.astype(np.float32) / 255
    return (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
