"""What a backbone gives. Rooms above this one read nothing else of it.

Axes: b images or texts, h rows and w columns of cells, c channels, d channels of the joint space,
t tokens, a heads, u channels before the last projection.
"""

from typing import Any, Protocol, Self

import jax
import numpy as np
from jax.typing import ArrayLike

from safe_jax.data.preprocessing import Preprocessing


class BackboneConfig(Protocol):
    """The shape of a backbone."""

    @property
    def image_size(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def dense_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the dense map of an image of `image_size`."""
        ...

    @property
    def embed_dim(self) -> int:
        """d, the channels of a feature."""
        ...


class Pool(Protocol):
    """The attention pool: an NNX module that computes in float32. SAFE tunes it."""

    c_proj: Any
    """The last projection, which has `kernel` and `bias`; ProLIP tunes it."""

    def __call__(self, dense_bhwc: jax.Array) -> jax.Array:
        """Dense maps, of any type, to features `(b, d)`, not normalised."""
        ...

    def unprojected(self, dense_bhwc: jax.Array) -> jax.Array:
        """`(b, u)`: the input of `c_proj`, and after it what is added to its output, if any."""
        ...

    def attention(self, dense_bhwc: jax.Array) -> jax.Array:
        """Where each head looks, `(b, h, w, a)`, summing to 1 over the cells."""
        ...


class ImageTower(Protocol):
    """Trunk and pool: an NNX module. They classify where texts are encoded already."""

    config: Any  # a `BackboneConfig`
    attnpool: Any  # a `Pool`

    @property
    def image_size(self) -> int: ...

    def folded(self) -> Self:
        """The same function for inference alone, and faster; its leaves are not a checkpoint's."""
        ...

    def image_tower(self) -> "ImageTower":
        """Trunk and pool alone, with the same arrays."""
        ...

    def dense_features(self, images_bhwc: ArrayLike) -> jax.Array:
        """Normalised float32 images to dense maps `(b, h, w, c)`, in the trunk's type."""
        ...

    def encode_image(self, images_bhwc: ArrayLike) -> jax.Array:
        """Normalised float32 images to features `(b, d)`, not normalised."""
        ...


class Backbone(ImageTower, Protocol):
    """An image tower with its text tower."""

    logit_scale: Any
    """A parameter: the logarithm of what multiplies a cosine."""

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Texts to tokens int32 `(b, t)`. Raises `InputError` for a text that does not fit."""
        ...

    def encode_text(self, tokens_bt: ArrayLike) -> jax.Array:
        """Tokens of `tokenize` to features `(b, d)`, not normalised."""
        ...
