"""SigLIP's text tower.

Axes: b texts, t tokens, c channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from safe_jax.siglip.config import EPSILON, SigLIPConfig
from safe_jax.siglip.transformer import Block, random


class TextTower(nnx.Module):
    """Tokens `(b, context_length)` to text features `(b, embed_dim)`, not normalised.

    No token is masked, padding neither, and the feature is read at the last: a text has to be
    padded to the context length, as in training.
    """

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs):
        width = config.text_width
        self.token_embedding = nnx.Embed(config.vocab_size, width, rngs=rngs)
        self.position_embedding = nnx.Param(random(rngs, config.context_length, width))
        self.layers = nnx.List(
            [
                Block(width, config.text_heads, config.text_mlp_width, dtype=jnp.float32, rngs=rngs)
                for _ in range(config.text_layers)
            ]
        )
        self.final_layer_norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(width, config.embed_dim, rngs=rngs)

    def __call__(self, tokens_bt: jax.Array) -> jax.Array:
        x_btc = self.token_embedding(tokens_bt) + self.position_embedding[...]
        for block in self.layers:
            x_btc = block(x_btc)
        return self.head(self.final_layer_norm(x_btc[:, -1]))
