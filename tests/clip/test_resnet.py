"""The trunk against torch: as the checkpoint has it, folded, and in 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from safe_jax.checkpoints import trees
from safe_jax.clip.model import CLIP
from tests.clip.parity import call, fold, relative, to_torch
from tools import torch_clip


def test_the_trunk_is_torchs(small, images_bhwc):
    state, model = small
    expected = torch_clip.dense(state, to_torch(images_bhwc)).permute(0, 2, 3, 1)
    assert relative(call(model, "dense_features", images_bhwc), expected) < 1e-5


def test_the_folded_trunk_is_the_trunk(small, images_bhwc):
    state, model = small
    before = trees.flatten(model)
    folded = model.folded()
    assert not any("/bn" in path or path.endswith("/var") for path in trees.flatten(folded))
    # Folding leaves the model itself as it was.
    for path, x in trees.flatten(model).items():
        np.testing.assert_array_equal(x, before[path])
    expected = torch_clip.dense(state, to_torch(images_bhwc)).permute(0, 2, 3, 1)
    assert relative(call(folded, "dense_features", images_bhwc), expected) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.bfloat16, 0.05), (jnp.float16, 0.005)])
def test_the_trunk_in_16_bits_keeps_parameters_in_float32(small, images_bhwc, dtype, bound):
    _, model = small
    graphdef = nnx.graphdef(trees.abstract_model(model.config, dtype, kind=CLIP))
    cast = nnx.merge(graphdef, nnx.state(model))
    dense = call(cast, "dense_features", images_bhwc)
    assert dense.dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(nnx.state(cast))} == {jnp.dtype("float32")}
    assert relative(dense.astype(jnp.float32), call(model, "dense_features", images_bhwc)) < bound
    assert jax.eval_shape(CLIP.encode_image, cast, images_bhwc).dtype == jnp.float32
    folded = fold(cast)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(folded.visual))} == {dense.dtype}
    assert relative(call(folded, "dense_features", images_bhwc).astype(jnp.float32), dense) < bound
