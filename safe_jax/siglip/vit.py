"""The trunk: a preprocessed image to a dense map, the tokens after the last norm.

Axes: b images, h rows and w columns of patches, t = h * w tokens, c channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from safe_jax.siglip.config import EPSILON, SigLIPConfig
from safe_jax.siglip.transformer import Block, random


class VisionTransformer(nnx.Module):
    """Images `(b, size, size, 3)` to dense maps `(b, h, w, c)`; `h = w = size // patch_size`."""

    def __init__(self, config: SigLIPConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        h, w, c = config.dense_shape
        self.patch_embedding = nnx.Conv(
            3, c, (config.patch_size,) * 2, strides=config.patch_size, padding="VALID",
            dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.position_embedding = nnx.Param(random(rngs, h * w, c))
        self.layers = nnx.List(
            [
                Block(c, config.vision_heads, config.vision_mlp_width, dtype=dtype, rngs=rngs)
                for _ in range(config.vision_layers)
            ]
        )
        self.post_layernorm = nnx.LayerNorm(c, epsilon=EPSILON, dtype=dtype, rngs=rngs)

    def folded(self) -> "VisionTransformer":
        """The same function for inference alone: weights are in the type that it computes in.

        Cast in a step, all of them are read in float32 and written for every batch.
        """
        graphdef, weights = nnx.split(self)
        dtype = self.patch_embedding.dtype
        return nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), weights))

    def __call__(self, images_bhwc: jax.Array) -> jax.Array:
        patches_bhwc = self.patch_embedding(images_bhwc)
        b, h, w, c = patches_bhwc.shape
        position_tc = self.position_embedding[...].astype(patches_bhwc.dtype)
        x_btc = patches_bhwc.reshape(b, h * w, c) + position_tc
        for block in self.layers:
            x_btc = block(x_btc)
        return self.post_layernorm(x_btc).reshape(b, h, w, c)
