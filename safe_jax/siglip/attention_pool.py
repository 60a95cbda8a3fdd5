"""SigLIP's MAP head, folded: a dense map to one feature.

A learned probe attends to the `n = h * w` cells, and the result x becomes `x + mlp(norm(x))`. The
query is the same for every image, so the projection of the keys is applied to it, once, and not to
the cells; and as attention sums to one, that of the values to the mixed cells (x_j is cell j):

    score_j = q . (Wk^T x_j + bk) = (Wk q) . x_j + q . bk    the last term is the same for every j
    out     = sum_j a_j (Wv^T x_j + bv) = Wv^T (sum_j a_j x_j) + bv

CLIP's pool folds in the same way, but its query is an image's own. Here `Wk q` is one vector a head
for all images. Of an image, attention takes `2 a n c + c^2` multiplications for the textbook's
`2 n c^2 + 2 n c`: for ViT-B/16 at 224 pixels (n = 196, c = 768, a = 12) 4.2 million instead of 232
million, beside 5.3 million of the output projection and the MLP. The key bias has no effect.

Axes: b images, n cells, c channels, a heads, d channels of a head, m channels of the MLP.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from safe_jax.siglip.config import EPSILON
from safe_jax.siglip.transformer import random


class HeadProjection(nnx.Module):
    """Weights of keys or values as torch has them: `(c, c)`, the rows of one head after another's.

    The folded form multiplies by one head's rows at a time.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(random(rngs, channels, channels))
        self.bias = nnx.Param(jnp.zeros(channels))


class AttentionPool(nnx.Module):
    """Dense maps `(b, h, w, c)` of any height and width to features `(b, c)`, not normalised."""

    def __init__(self, channels: int, heads: int, mlp_width: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.probe = nnx.Param(random(rngs, channels))
        self.q_proj = nnx.Linear(channels, channels, rngs=rngs)
        self.k_proj = HeadProjection(channels, rngs=rngs)
        self.v_proj = HeadProjection(channels, rngs=rngs)
        self.out_proj = nnx.Linear(channels, channels, rngs=rngs)
        self.layernorm = nnx.LayerNorm(channels, epsilon=EPSILON, rngs=rngs)
        self.c_fc = nnx.Linear(channels, mlp_width, rngs=rngs)
        self.c_proj = nnx.Linear(mlp_width, channels, rngs=rngs)

    def __call__(self, dense_bhwc: jax.Array) -> jax.Array:
        hidden_bm, x_bc = self._before_projection(dense_bhwc)
        return x_bc + self.c_proj(hidden_bm)

    def unprojected(self, dense_bhwc: jax.Array) -> jax.Array:
        """`(b, m + c)`: the input of `c_proj`, and the shortcut that is added to its output."""
        return jnp.concatenate(self._before_projection(dense_bhwc), axis=1)

    def attention(self, dense_bhwc: jax.Array) -> jax.Array:
        """The weight of each cell in each head: `(b, h, w, heads)`, summing to 1 over cells."""
        weight_bna = jax.nn.softmax(self._scores(self._cells(dense_bhwc)), axis=1)
        return weight_bna.reshape(*dense_bhwc.shape[:3], -1)

    def _before_projection(self, dense_bhwc: jax.Array) -> tuple[jax.Array, jax.Array]:
        cells_bnc = self._cells(dense_bhwc)
        weight_bna = jax.nn.softmax(self._scores(cells_bnc), axis=1)
        mixed_bac = jnp.einsum("bna,bnc->bac", weight_bna, cells_bnc)
        # Heads first, as in CLIP's pool: on a CPU other orders transpose in every step.
        out_adb = jnp.einsum("adc,abc->adb", self._by_head(self.v_proj), mixed_bac.swapaxes(0, 1))
        out_bc = out_adb.reshape(-1, cells_bnc.shape[0]).T + self.v_proj.bias[...]
        x_bc = self.out_proj(out_bc)
        return jax.nn.gelu(self.c_fc(self.layernorm(x_bc)), approximate=True), x_bc

    def _cells(self, dense_bhwc: jax.Array) -> jax.Array:
        b, h, w, c = dense_bhwc.shape
        return dense_bhwc.reshape(b, h * w, c).astype(jnp.float32)

    def _scores(self, cells_bnc: jax.Array) -> jax.Array:
        kernel_adc = self._by_head(self.k_proj)
        heads, d, _ = kernel_adc.shape
        query_ad = self.q_proj(self.probe[...][None]).reshape(heads, d) * d**-0.5
        folded_query_ac = jnp.einsum("ad,adc->ac", query_ad, kernel_adc)
        return jnp.einsum("bnc,ac->bna", cells_bnc, folded_query_ac)

    def _by_head(self, projection: HeadProjection) -> jax.Array:
        kernel_oc = projection.kernel[...]
        return kernel_oc.reshape(self.heads, -1, kernel_oc.shape[-1])
