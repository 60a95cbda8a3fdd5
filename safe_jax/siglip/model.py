"""SigLIP, assembled.

Axes: b images or texts, h rows, w columns, c channels, t tokens.
"""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from safe_jax.checkpoints.trees import restricted
from safe_jax.siglip.attention_pool import AttentionPool
from safe_jax.siglip.config import SigLIPConfig
from safe_jax.siglip.text import TextTower
from safe_jax.siglip.tokenizer import tokenize
from safe_jax.siglip.vit import VisionTransformer


class ImageTower(nnx.Module):
    """Trunk and pool, which classify images where the texts of the classes are encoded already.

    The trunk computes in `dtype`; the pool and everything after it stay in float32.
    """

    def __init__(self, config: SigLIPConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.visual = VisionTransformer(config, dtype=dtype, rngs=rngs)
        self.attnpool = AttentionPool(
            config.vision_width, config.vision_heads, config.vision_mlp_width, rngs=rngs
        )

    @property
    def image_size(self) -> int:
        return self.config.image_size

    def folded(self) -> Self:
        """The same model for inference alone: its trunk's weights are in the trunk's type."""
        model = nnx.clone(self)
        model.visual = self.visual.folded()
        return model

    def dense_features(self, images_bhwc: ArrayLike) -> jax.Array:
        """Preprocessed float32 images `(b, size, size, 3)` to dense maps `(b, h, w, c)`."""
        return self.visual(jnp.asarray(images_bhwc))

    def image_tower(self) -> "ImageTower":
        """Trunk and pool alone, with the same arrays."""
        return self if type(self) is ImageTower else restricted(self, ImageTower)

    def encode_image(self, images_bhwc: ArrayLike) -> jax.Array:
        """Preprocessed float32 images to features `(b, embed_dim)`, not normalised."""
        return self.attnpool(self.dense_features(images_bhwc))


class SigLIP(ImageTower):
    """A SigLIP with float32 parameters.

    SigLIP's own logits are `exp(logit_scale)` times the cosine plus `logit_bias`, each for a
    sigmoid of its own. Among the classes of one image the bias changes neither the order nor the
    softmax, so classifiers leave it out.
    """

    def __init__(self, config: SigLIPConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        self.text = TextTower(config, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(10)))
        self.logit_bias = nnx.Param(jnp.float32(-10))
        # The file itself, so that it is saved, verified and loaded as the weights are.
        self.tokenizer_json = nnx.Variable(jnp.zeros(config.tokenizer_bytes, jnp.uint8))

    def tokenize(self, texts: list[str]) -> np.ndarray:
        """Tokens int32 `(len(texts), context_length)` for `encode_text`."""
        json = np.asarray(self.tokenizer_json[...]).tobytes()
        return tokenize(json, self.config, texts)

    def encode_text(self, tokens_bt: ArrayLike) -> jax.Array:
        """Tokens of `tokenize` to features `(b, embed_dim)`, not normalised."""
        return self.text(jnp.asarray(tokens_bt))
