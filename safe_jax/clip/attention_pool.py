"""CLIP's attention pool, folded: a dense map to one feature.

The pool puts the mean cell in front of the `n = h * w` cells, adds a positional embedding, and
lets the mean token alone attend to all `n + 1`. With a single query neither keys nor values need
be formed (x_j is token j, and attention sums to one):

    score_j = q . (Wk^T x_j + bk) = (Wk q) . x_j + q . bk    the last term is the same for every j
    out     = sum_j a_j (Wv^T x_j + bv) = Wv^T (sum_j a_j x_j) + bv

so the projections are applied to one vector per head and image instead of `n + 1`: the same
function as torch's `multi_head_attention_forward`, for RN50 with about 20x fewer multiplications.
It also shows that the key bias has no effect: softmax cancels its term, its gradient is zero.

Axes: b images, n = h * w cells, m = n + 1 tokens (mean first), c channels, a heads, d channels of a
head, k = b * a.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from safe_jax.clip.config import HEAD_WIDTH


class HeadProjection(nnx.Module):
    """Weights of `k_proj` or `v_proj`, grouped by head.

    `kernel_adc` is torch's `(c, c)` weight with its rows grouped by head. The folded form
    multiplies by one head's rows at a time: any other layout costs a transposition in every step,
    which on a CPU takes longer than the products do.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        shape = (channels // HEAD_WIDTH, HEAD_WIDTH, channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * channels**-0.5)
        self.bias = nnx.Param(jnp.zeros(channels))


class AttentionPool(nnx.Module):
    """Dense maps `(b, size, size, channels)` to features `(b, out_features)`, not normalised.

    Raises `ValueError` for a map of another size than the positional embedding was made for.
    """

    def __init__(self, size: int, channels: int, out_features: int, *, rngs: nnx.Rngs):
        self.positional_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (size**2 + 1, channels)) * channels**-0.5
        )
        self.q_proj = nnx.Linear(channels, channels, rngs=rngs)
        self.k_proj = HeadProjection(channels, rngs=rngs)
        self.v_proj = HeadProjection(channels, rngs=rngs)
        self.c_proj = nnx.Linear(channels, out_features, rngs=rngs)

    def __call__(self, dense_bhwc: jax.Array) -> jax.Array:
        return self.c_proj(self.unprojected(dense_bhwc))

    def unprojected(self, dense_bhwc: jax.Array) -> jax.Array:
        """The input of `c_proj`: `(b, c)`."""
        cells_bnc, position_nc, mean_offset_c = self._tokens(dense_bhwc)
        weight_bma = jax.nn.softmax(self._scores(cells_bnc, position_nc, mean_offset_c), axis=1)
        on_mean_ba = weight_bma[:, 0]
        on_cells_bna = weight_bma[:, 1:] + on_mean_ba[:, None] / position_nc.shape[0]
        mixed_bac = _mix(on_cells_bna, cells_bnc, position_nc)
        kernel_adc = self.v_proj.kernel[...]
        out_adb = jnp.einsum("adc,abc->adb", kernel_adc, mixed_bac.swapaxes(0, 1))
        out_adb += jnp.einsum("ba,ad->adb", on_mean_ba, kernel_adc @ mean_offset_c)
        return out_adb.reshape(-1, cells_bnc.shape[0]).T + self.v_proj.bias[...]

    def attention(self, dense_bhwc: jax.Array) -> jax.Array:
        """The weight of each cell in each head: `(b, h, w, heads)`, summing to 1 over cells.

        The mean token's weight is left out, even where it is nearly all of a head's.
        """
        score_bma = self._scores(*self._tokens(dense_bhwc))
        on_cells_bna = jax.nn.softmax(score_bma[:, 1:], axis=1)
        return on_cells_bna.reshape(*dense_bhwc.shape[:3], -1)

    def _tokens(self, dense_bhwc: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Cells, their positions, and the mean token minus the mean of all other tokens.

        The mean token is the mean cell plus its own position, so that difference depends on
        positions alone: it is one vector for all images. Whatever is linear in the mean token is
        computed from the same thing for the other tokens and from this vector.
        """
        b, rows, columns, c = dense_bhwc.shape
        position_mc = self.positional_embedding[...]
        if rows * columns + 1 != position_mc.shape[0]:
            side = round((position_mc.shape[0] - 1) ** 0.5)
            raise ValueError(
                f"this pool takes maps of {side} x {side} cells, not {rows} x {columns}: "
                f"give images of {32 * side} x {32 * side} pixels"
            )
        cells_bnc = dense_bhwc.reshape(b, rows * columns, c).astype(position_mc.dtype)
        return cells_bnc, position_mc[1:], position_mc[0] - position_mc[1:].mean(0)

    def _scores(
        self, cells_bnc: jax.Array, position_nc: jax.Array, mean_offset_c: jax.Array
    ) -> jax.Array:
        # The mean cell and its position are projected apart, for all images share the position.
        query_bc = self.q_proj(_mean(cells_bnc, position_nc))
        query_bc += self.positional_embedding[0] @ self.q_proj.kernel[...]
        query_bc *= HEAD_WIDTH**-0.5
        query_abd = query_bc.reshape(cells_bnc.shape[0], -1, HEAD_WIDTH).swapaxes(0, 1)
        kernel_adc = self.k_proj.kernel[...]
        folded_query_bac = jnp.einsum("abd,adc->abc", query_abd, kernel_adc).swapaxes(0, 1)
        score_bna = _score(folded_query_bac, cells_bnc, position_nc)
        on_offset_ba = jnp.einsum("abd,ad->ba", query_abd, kernel_adc @ mean_offset_c)
        on_mean_b1a = (score_bna.mean(1) + on_offset_ba)[:, None]
        return jnp.concatenate([on_mean_b1a, score_bna], 1)


# The three functions of the tokens, `cells + positions`, each with its gradient. The positional
# embedding is shared by all images: autodiff would form a gradient of it for every image and sum
# them; the product in `_token_gradients` sums over images at once.


@jax.custom_vjp
def _mean(cells_bnc, position_nc):
    """The mean cell."""
    return (cells_bnc + position_nc).mean(1) - position_nc.mean(0)


def _mean_backward(saved, grad_bc):
    cells_bnc, position_nc = saved
    grad_bnc = jnp.broadcast_to(grad_bc[:, None] / position_nc.shape[0], cells_bnc.shape)
    return grad_bnc, jnp.zeros_like(position_nc)


@jax.custom_vjp
def _score(query_bac, cells_bnc, position_nc):
    """The product of each query with each token."""
    return jnp.einsum("bnc,bac->bna", cells_bnc + position_nc, query_bac)


def _score_backward(saved, grad_bna):
    query_bac, cells_bnc, position_nc = saved
    grad_query_bac = jnp.einsum("bna,bnc->bac", grad_bna, cells_bnc + position_nc)
    return grad_query_bac, *_token_gradients(grad_bna, query_bac)


@jax.custom_vjp
def _mix(weight_bna, cells_bnc, position_nc):
    """The weighted sum of the tokens."""
    return jnp.einsum("bna,bnc->bac", weight_bna, cells_bnc + position_nc)


def _mix_backward(saved, grad_bac):
    weight_bna, cells_bnc, position_nc = saved
    grad_weight_bna = jnp.einsum("bnc,bac->bna", cells_bnc + position_nc, grad_bac)
    return grad_weight_bna, *_token_gradients(weight_bna, grad_bac)


def _token_gradients(x_bna, y_bac):
    """The gradients of the cells and of the positions; XLA drops the one that is not used."""
    return jnp.einsum("bna,bac->bnc", x_bna, y_bac), jnp.einsum("bna,bac->nc", x_bna, y_bac)


_mean.defvjp(lambda *args: (_mean(*args), args), _mean_backward)
_score.defvjp(lambda *args: (_score(*args), args), _score_backward)
_mix.defvjp(lambda *args: (_mix(*args), args), _mix_backward)
