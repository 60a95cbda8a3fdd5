"""SigLIP beside the model of `transformers` with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from safe_jax.checkpoints import trees
from safe_jax.siglip.model import SigLIP
from tests.clip.parity import call, relative
from tools import torch_siglip


@pytest.mark.parametrize(
    ("shape", "second"),
    [
        ("base-patch16", False),
        ("base-patch32", True),
        ("so400m-patch14", False),
        ("giant-opt", True),
    ],
)
def test_dense_maps_features_and_texts_are_those_of_transformers(shape, second, tmp_path):
    off = torch_siglip.compare(tmp_path, second, **torch_siglip.SHAPES[shape])
    assert off.keys() == {"dense", "pooled", "text"}
    assert max(off.values()) < 1e-4


def test_scale_and_bias_are_those_of_the_checkpoint(ours):
    assert ours.logit_scale[...] == pytest.approx(4.7)
    assert ours.logit_bias[...] == pytest.approx(-12.9)
    assert ours.tokenize(["a photo of the red thing.", "unheard of"]).shape == (2, 64)


def test_the_folded_trunk_is_the_trunk_bit_for_bit(ours):
    graphdef = nnx.graphdef(trees.abstract_model(ours.config, jnp.bfloat16, kind=SigLIP))
    cast = nnx.merge(graphdef, nnx.state(ours))
    folded = cast.folded()
    assert {x.dtype for x in jax.tree.leaves(nnx.state(folded.visual))} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(nnx.state(cast.visual))} == {jnp.dtype("float32")}
    size = ours.image_size
    images_bhwc = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    found, expected = (call(model, "dense_features", images_bhwc) for model in (folded, cast))
    np.testing.assert_array_equal(found, expected)


def test_the_folded_head_is_the_textbooks(siglip, ours):
    head = siglip[1].vision_model.head
    dense_bhwc = np.random.default_rng(1).normal(size=(5, 4, 4, 32)).astype(np.float32)
    expected = head(torch.from_numpy(dense_bhwc).reshape(5, 16, 32))
    assert relative(call(ours, "attnpool", dense_bhwc), expected.detach()) < 1e-5


def test_the_folded_heads_gradients_are_the_textbooks(siglip, ours):
    head = siglip[1].vision_model.head
    dense_bhwc = np.random.default_rng(1).normal(size=(5, 4, 4, 32)).astype(np.float32)
    direction = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)
    head.zero_grad()
    out = head(torch.from_numpy(dense_bhwc).reshape(5, 16, 32))
    (out * torch.from_numpy(direction)).sum().backward()
    graphdef, params = nnx.split(ours.attnpool)

    @jax.jit
    def gradients(params):
        return jax.grad(lambda p: (nnx.merge(graphdef, p)(dense_bhwc) * direction).sum())(params)

    found = nnx.to_pure_dict(gradients(params))
    in_proj = head.attention.in_proj_weight.grad.numpy()
    expected = {
        ("probe",): head.probe.grad.reshape(-1),
        ("q_proj", "kernel"): in_proj[:32].T,
        ("k_proj", "kernel"): in_proj[32:64],
        ("v_proj", "kernel"): in_proj[64:],
        ("v_proj", "bias"): head.attention.in_proj_bias.grad[64:],
        ("out_proj", "kernel"): head.attention.out_proj.weight.grad.T,
        ("layernorm", "scale"): head.layernorm.weight.grad,
        ("c_fc", "kernel"): head.mlp.fc1.weight.grad.T,
        ("c_proj", "kernel"): head.mlp.fc2.weight.grad.T,
    }
    for path, grad in expected.items():
        leaf = found
        for part in path:
            leaf = leaf[part]
        assert relative(leaf, grad) < 1e-5, path
    assert not found["k_proj"]["bias"].any()  # the key bias has no effect


def test_attention_sums_to_one_and_is_the_textbooks(siglip, ours):
    head = siglip[1].vision_model.head
    dense_bhwc = np.random.default_rng(1).normal(size=(5, 4, 4, 32)).astype(np.float32)
    attention_bhwa = call(ours.attnpool, "attention", jnp.asarray(dense_bhwc))
    assert attention_bhwa.shape == (5, 4, 4, 2)
    np.testing.assert_allclose(attention_bhwa.sum((1, 2)), 1, rtol=1e-5)
    cells = torch.from_numpy(dense_bhwc).reshape(5, 16, 32)
    _, expected_ban = head.attention(
        head.probe.repeat(5, 1, 1), cells, cells, average_attn_weights=False
    )
    expected = expected_ban[:, :, 0].detach().numpy().transpose(0, 2, 1).reshape(5, 4, 4, 2)
    assert relative(attention_bhwa, expected) < 1e-5
