"""CLIP with a ResNet image tower, assembled.

Axes: b images or texts, h rows, w columns, c channels, t tokens.
"""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from safe_jax.checkpoints.trees import restricted
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.config import PRESETS, CLIPConfig
from safe_jax.clip.resnet import ResNet
from safe_jax.clip.text import TextTower
from safe_jax.clip.tokenizer import tokenize

__all__ = ["CLIP", "PRESETS", "CLIPConfig", "ImageTower"]


class ImageTower(nnx.Module):
    """Trunk and pool, which classify images where the texts of the classes are encoded already.

    The trunk computes in `dtype` and casts its parameters, which are float32, to it. The pool and
    everything after it stay in float32, whose products accelerators round unless
    `jax.default_matmul_precision("highest")` is set, as a run sets it.
    """

    def __init__(self, config: CLIPConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        h, _, c = config.dense_shape
        self.visual = ResNet(config.vision_layers, config.vision_width, dtype=dtype, rngs=rngs)
        self.attnpool = AttentionPool(h, c, config.embed_dim, rngs=rngs)

    @property
    def image_size(self) -> int:
        return self.config.image_size

    def folded(self) -> Self:
        """The same model for inference alone, and faster: its trunk has no batch norms.

        Its leaves are not a checkpoint's: they cannot be converted or saved, and the trunk cannot
        be tuned.
        """
        model = nnx.clone(self)
        model.visual = self.visual.folded()
        return model

    def dense_features(self, images_bhwc: ArrayLike) -> jax.Array:
        """Preprocessed float32 images `(b, size, size, 3)` to dense maps `(b, h, w, c)`.

        Raises `ValueError` for another shape, and for pixels that are no `preprocess`ed ones.
        """
        images_bhwc = jnp.asarray(images_bhwc)
        size = self.image_size
        if images_bhwc.ndim != 4 or images_bhwc.shape[1:] != (size, size, 3):
            lone = images_bhwc.shape == (size, size, 3)
            raise ValueError(
                f"images of shape (b, {size}, {size}, 3) are expected, not {images_bhwc.shape}"
                + (": image[None] makes a batch of one image" if lone else "")
            )
        if not jnp.issubdtype(images_bhwc.dtype, jnp.floating):
            raise ValueError(
                f"preprocessed float32 images are expected, not {images_bhwc.dtype}: "
                "clip.preprocess makes them"
            )
        return self.visual(images_bhwc)

    def image_tower(self) -> "ImageTower":
        """Trunk and pool alone, with the same arrays."""
        return self if type(self) is ImageTower else restricted(self, ImageTower)

    def encode_image(self, images_bhwc: ArrayLike) -> jax.Array:
        """Preprocessed float32 images to features `(b, embed_dim)`, not normalised."""
        return self.attnpool(self.dense_features(images_bhwc))


class CLIP(ImageTower):
    """A CLIP model with float32 parameters.

    The text tower computes in float32. `logit_scale` is a logarithm, as in OpenAI's code: logits
    are `exp(logit_scale)` times the cosine.
    """

    def __init__(self, config: CLIPConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        self.text = TextTower(config, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Tokens int32 `(len(texts), t)` for `encode_text`: the columns that count.

        Nothing after the end of text does, so `t` is the length of the longest text.
        """
        tokens_bt = tokenize(texts, self.config.context_length)
        return tokens_bt[:, : int(tokens_bt.argmax(-1).max()) + 1]

    def encode_text(self, tokens_bt: ArrayLike) -> jax.Array:
        """Tokens of `tokenize` to features `(b, embed_dim)`, not normalised.

        Columns that are padding in every row may be cut off. Raises `ValueError` for anything else.
        """
        shape, length = np.shape(tokens_bt), self.config.context_length
        if len(shape) != 2 or shape[1] > length:
            raise ValueError(
                f"tokens of shape (b, {length}) are expected, not {shape}: clip.tokenize(texts) "
                "makes them"
            )
        return self.text(jnp.asarray(tokens_bt))
