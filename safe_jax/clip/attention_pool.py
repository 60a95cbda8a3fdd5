"""CLIP's attention pool, folded: a dense map to one feature.

The pool puts the mean cell in front of the `n = h * w` cells, adds a positional embedding, and
lets the mean token alone attend to all `n + 1`. With a single query neither keys nor values need
be formed (x_j is token j, and attention sums to one):

    score_j = q . (Wk^T x_j + bk) = (Wk q) . x_j + q . bk    the last term is the same for every j
    out     = sum_j a_j (Wv^T x_j + bv) = Wv^T (sum_j a_j x_j) + bv

so the projections are applied to one vector a head and image instead of `n + 1`: the same
function as torch's `multi_head_attention_forward`, for RN50 with about 20x fewer multiplications.
It also shows that the key bias cannot matter: softmax takes its term away, its gradient is zero.

Axes: b images, n = h * w cells, m = n + 1 tokens (mean first), c channels, a heads, d channels of a
head, k = b * a.
"""

import jax
import jax.numpy as jnp
from flax import nnx

HEAD_WIDTH = 64  # of every CLIP model


class HeadProjection(nnx.Module):
    """Weights of `k_proj` or `v_proj`, kept a head at a time.

    `kernel_adc` is torch's `(c, c)` weight with its rows grouped by head. The folded form
    multiplies by it a head at a time: any other layout costs a transposition in every step, which
    on a CPU takes longer than the products do.
    """

    def __init__(self, channels, *, rngs):
        shape = (channels // HEAD_WIDTH, HEAD_WIDTH, channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * channels**-0.5)
        self.bias = nnx.Param(jnp.zeros(channels))


class AttentionPool(nnx.Module):
    """Dense maps `(b, size, size, channels)` to features `(b, out_features)`, not normalised.

    Raises `ValueError` for a map of another size than the positional embedding was made for.
    """

    def __init__(self, size, channels, out_features, *, rngs):
        self.positional_embedding = nnx.Param(
            jax.random.normal(rngs.params(), (size**2 + 1, channels)) * channels**-0.5
        )
        self.q_proj = nnx.Linear(channels, channels, rngs=rngs)
        self.k_proj = HeadProjection(channels, rngs=rngs)
        self.v_proj = HeadProjection(channels, rngs=rngs)
        self.c_proj = nnx.Linear(channels, out_features, rngs=rngs)

    def __call__(self, dense_bhwc):
        return self.c_proj(self.unprojected(dense_bhwc))

    def unprojected(self, dense_bhwc):
        """What `c_proj` is applied to: `(b, c)`."""
        cells_bnc, position_nc, apart_c = self._tokens(dense_bhwc)
        weight_bma = jax.nn.softmax(self._scores(cells_bnc, position_nc, apart_c), axis=1)
        on_mean_ba = weight_bma[:, 0]
        on_cells_bna = weight_bma[:, 1:] + on_mean_ba[:, None] / len(position_nc)
        mixed_bac = _mix(on_cells_bna, cells_bnc, position_nc)
        kernel_adc = self.v_proj.kernel[...]
        out_adb = jnp.einsum("adc,abc->adb", kernel_adc, mixed_bac.swapaxes(0, 1))
        out_adb += jnp.einsum("ba,ad->adb", on_mean_ba, kernel_adc @ apart_c)
        return out_adb.reshape(-1, len(cells_bnc)).T + self.v_proj.bias[...]

    def attention(self, dense_bhwc):
        """How much each cell counts in each head: `(b, h, w, heads)`, summing to 1 over cells.

        The mean token's own share is left out, which may be all that a head has.
        """
        score_bma = self._scores(*self._tokens(dense_bhwc))
        on_cells_bna = jax.nn.softmax(score_bma[:, 1:], axis=1)
        return on_cells_bna.reshape(*dense_bhwc.shape[:3], -1)

    def _tokens(self, dense_bhwc):
        """Cells, their positions, and `apart_c`: the mean token less the mean of the other tokens.

        The mean token is the mean cell at a position of its own, so only positions are left in the
        difference: it is one vector for all images, and what is done with the mean token follows
        from what is done with the others.
        """
        b, rows, columns, c = dense_bhwc.shape
        position_mc = self.positional_embedding[...]
        if rows * columns + 1 != len(position_mc):
            side = round((len(position_mc) - 1) ** 0.5)
            raise ValueError(
                f"this pool takes maps of {side} x {side} cells, not {rows} x {columns}: "
                f"give images of {32 * side} x {32 * side} pixels"
            )
        cells_bnc = dense_bhwc.reshape(b, -1, c).astype(position_mc.dtype)
        return cells_bnc, position_mc[1:], position_mc[0] - position_mc[1:].mean(0)

    def _scores(self, cells_bnc, position_nc, apart_c):
        # The mean token's two parts are projected apart: one is the same for all images.
        query_bc = self.q_proj(_mean(cells_bnc, position_nc))
        query_bc += self.positional_embedding[0] @ self.q_proj.kernel[...]
        query_bc *= HEAD_WIDTH**-0.5
        query_abd = query_bc.reshape(len(cells_bnc), -1, HEAD_WIDTH).swapaxes(0, 1)
        kernel_adc = self.k_proj.kernel[...]
        asked_bac = jnp.einsum("abd,adc->abc", query_abd, kernel_adc).swapaxes(0, 1)
        score_bna = _ask(asked_bac, cells_bnc, position_nc)
        on_apart_ba = jnp.einsum("abd,ad->ba", query_abd, kernel_adc @ apart_c)
        on_mean_b1a = (score_bna.mean(1) + on_apart_ba)[:, None]
        return jnp.concatenate([on_mean_b1a, score_bna], 1)


# What is done with the tokens, `cells + positions`: formed once for all. Autodiff would form a
# gradient for every token of every image, to sum it over images for the positions; here that sum
# is a product.


@jax.custom_vjp
def _mean(cells_bnc, position_nc):
    """The mean cell."""
    return (cells_bnc + position_nc).mean(1) - position_nc.mean(0)


def _mean_backward(saved, grad_bc):
    cells_bnc, position_nc = saved
    every_bnc = jnp.broadcast_to(grad_bc[:, None] / len(position_nc), cells_bnc.shape)
    return every_bnc, jnp.zeros_like(position_nc)


@jax.custom_vjp
def _ask(asked_bac, cells_bnc, position_nc):
    return jnp.einsum("bnc,bac->bna", cells_bnc + position_nc, asked_bac)


def _ask_backward(saved, grad_bna):
    asked_bac, cells_bnc, position_nc = saved
    grad_asked_bac = jnp.einsum("bna,bnc->bac", grad_bna, cells_bnc + position_nc)
    return grad_asked_bac, *_of_tokens(grad_bna, asked_bac)


@jax.custom_vjp
def _mix(weight_bna, cells_bnc, position_nc):
    return jnp.einsum("bna,bnc->bac", weight_bna, cells_bnc + position_nc)


def _mix_backward(saved, grad_bac):
    weight_bna, cells_bnc, position_nc = saved
    grad_weight_bna = jnp.einsum("bnc,bac->bna", cells_bnc + position_nc, grad_bac)
    return grad_weight_bna, *_of_tokens(weight_bna, grad_bac)


def _of_tokens(x_bna, y_bac):
    """The gradients of cells and of positions; what is not asked for is not computed."""
    return jnp.einsum("bna,bac->bnc", x_bna, y_bac), jnp.einsum("bna,bac->nc", x_bna, y_bac)


_mean.defvjp(lambda *args: (_mean(*args), args), _mean_backward)
_ask.defvjp(lambda *args: (_ask(*args), args), _ask_backward)
_mix.defvjp(lambda *args: (_mix(*args), args), _mix_backward)
