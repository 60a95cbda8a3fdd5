"""The folded attention pool against the one that torch computes from every key and value."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util

from safe_jax.checkpoints import state_dict
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.family import FAMILY
from tests.clip.parity import call, relative, to_torch
from tools import torch_clip


@pytest.fixture(scope="module")
def dense_bhwc():
    return np.random.default_rng(1).exponential(size=(5, 3, 3, 256)).astype(np.float32)


def test_the_folded_pool_is_torchs(small, dense_bhwc):
    state, model = small
    expected = torch_clip.pool(state, to_torch(dense_bhwc))
    assert relative(call(model, "attnpool", dense_bhwc), expected) < 1e-5


def test_the_folded_pools_gradients_are_torchs(small, dense_bhwc):
    state, model = small
    direction = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)

    trained = {k: v.clone().requires_grad_() for k, v in state.items() if "attnpool" in k}
    dense_bchw = to_torch(dense_bhwc).requires_grad_()
    (torch_clip.pool(trained, dense_bchw) * torch.from_numpy(direction)).sum().backward()

    graphdef, params = nnx.split(model.attnpool)

    @jax.jit
    def gradients(params, dense_bhwc):
        def loss(params, dense_bhwc):
            return (nnx.merge(graphdef, params)(dense_bhwc) * direction).sum()

        return jax.grad(loss, argnums=(0, 1))(params, dense_bhwc)

    grads, grad_bhwc = gradients(nnx.to_pure_dict(params), dense_bhwc)
    assert relative(grad_bhwc, dense_bchw.grad.permute(0, 2, 3, 1)) < 1e-5
    found = state_dict.to_torch(
        FAMILY,
        {f"attnpool/{path}": x for path, x in traverse_util.flatten_dict(grads, sep="/").items()},
    )
    # Torch's gradient of the key bias is rounding noise; ours is exactly zero.
    assert not found.pop("visual.attnpool.k_proj.bias").any()
    for name, grad in found.items():
        assert relative(grad, trained[name].grad) < 1e-5, name


def test_attention_is_the_softmax_over_cells(small, dense_bhwc):
    _, model = small
    attention_bhwa = call(model.attnpool, "attention", dense_bhwc)
    assert attention_bhwa.shape == (5, 3, 3, 4)
    np.testing.assert_allclose(attention_bhwa.sum((1, 2)), 1, rtol=1e-5)
    # Also where the mean token has all of a head's weight.
    attention_bhwa = call(model.attnpool, "attention", 1e5 * dense_bhwc)
    np.testing.assert_allclose(attention_bhwa.sum((1, 2)), 1, rtol=1e-5)


def test_the_batch_may_be_symbolic(small, dense_bhwc):
    """An export of the pool takes any number of images."""
    pool = small[1].attnpool
    (b,) = jax.export.symbolic_shape("b")
    symbolic_bhwc = jax.ShapeDtypeStruct((b, *dense_bhwc.shape[1:]), jnp.float32)
    exported = jax.export.export(jax.jit(lambda dense_bhwc: pool(dense_bhwc)))(symbolic_bhwc)
    for images in (1, 5):
        expected = call(pool, "__call__", dense_bhwc[:images])
        assert relative(exported.call(dense_bhwc[:images]), expected) < 1e-5


def test_a_map_of_another_size_is_refused():
    pool = AttentionPool(3, 128, 16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"3 x 3 cells, not 4 x 4: give images of 96 x 96"):
        pool(jnp.zeros((1, 4, 4, 128)))
