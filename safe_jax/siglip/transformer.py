"""The transformer blocks of both towers: full attention, then an MLP, each behind a layer norm.

Attributes keep the names of Hugging Face's checkpoints.

Axes: b images or texts, t tokens, a heads, d channels of a head, c channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from safe_jax.siglip.config import EPSILON


class Attention(nnx.Module):
    """Every token attends to every other."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.q_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.out_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        b, t, c = x_btc.shape
        query, key, value = (
            projection(x_btc).reshape(b, t, self.heads, c // self.heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(jax.nn.dot_product_attention(query, key, value).reshape(b, t, c))


class MLP(nnx.Module):
    """Two layers with GELU, in its tanh form, between them."""

    def __init__(self, width: int, mlp_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(width, mlp_width, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(mlp_width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x_btc), approximate=True))


class Block(nnx.Module):
    """Attention and MLP, each beside a shortcut."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layer_norm1 = nnx.LayerNorm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.self_attn = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.layer_norm2 = nnx.LayerNorm(width, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.mlp = MLP(width, mlp_width, dtype=dtype, rngs=rngs)

    def __call__(self, x_btc: jax.Array) -> jax.Array:
        x_btc = x_btc + self.self_attn(self.layer_norm1(x_btc))
        return x_btc + self.mlp(self.layer_norm2(x_btc))


def random(rngs: nnx.Rngs, *shape: int) -> jax.Array:
    """Random values of the scale of an embedding with `shape[-1]` channels."""
    return jax.random.normal(rngs.params(), shape) * jnp.float32(shape[-1] ** -0.5)
