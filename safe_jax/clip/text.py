"""CLIP's text tower.

Axes: b texts, t tokens, c channels.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from safe_jax.clip.config import HEAD_WIDTH, Activation, CLIPConfig

_ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # most of open_clip's
}


class Attention(nnx.Module):
    """Causal self-attention; `in_proj` holds queries, keys and values side by side."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.heads = max(1, width // HEAD_WIDTH)
        self.in_proj = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        b, t, c = x_btc.shape
        query, key, value = (
            x.reshape(b, t, self.heads, c // self.heads)
            for x in jnp.split(self.in_proj(x_btc), 3, axis=-1)
        )
        out = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(out.reshape(b, t, c))


class MLP(nnx.Module):
    """Two layers, of four times the width between them."""

    def __init__(self, width: int, activation: Activation, *, rngs: nnx.Rngs):
        self.activation = activation
        self.c_fc = nnx.Linear(width, 4 * width, rngs=rngs)
        self.c_proj = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        return self.c_proj(_ACTIVATIONS[self.activation](self.c_fc(x_btc)))


class Block(nnx.Module):
    """Attention, then an MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, activation: Activation, *, rngs: nnx.Rngs):
        self.ln_1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attn = Attention(width, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.mlp = MLP(width, activation, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        x_btc = x_btc + self.attn(self.ln_1(x_btc))
        return x_btc + self.mlp(self.ln_2(x_btc))


class TextTower(nnx.Module):
    """Tokens `(b, t)` to text features `(b, embed_dim)`, not normalised.

    `t` may be shorter than the context length: attention is causal and the feature is read at the
    end-of-text token, so the padding after it has no effect.
    """

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        width = config.text_width
        self.token_embedding = nnx.Embed(config.vocab_size, width, rngs=rngs)
        self.positional_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (config.context_length, width)) * 0.01
        )
        self.resblocks = nnx.List(
            [Block(width, config.activation, rngs=rngs) for _ in range(config.text_layers)]
        )
        self.ln_final = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.text_projection = nnx.Param(
            jax.random.normal(rngs.params(), (width, config.embed_dim)) * width**-0.5
        )

    def __call__(self, tokens_bt: jax.Array) -> jax.Array:
        b, t = tokens_bt.shape
        x_btc = self.token_embedding(tokens_bt) + self.positional_embedding[:t]
        for block in self.resblocks:
            x_btc = block(x_btc)
        # The end-of-text token has the highest number in the vocabulary.
        end_bc = x_btc[jnp.arange(b), tokens_bt.argmax(-1)]
        return self.ln_final(end_bc) @ self.text_projection[...]
