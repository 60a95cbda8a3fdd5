"""The model against torch, part by part, then whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util

from safe_jax import clip
from safe_jax.clip import torch_files, weights, winograd
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.model import PRESETS
from tests import torch_clip

SMALL = {
    "layers": (1, 2, 1, 1),
    "width": 8,
    "embed_dim": 32,
    "image_size": 96,
    "text_width": 128,
    "text_layers": 2,
}


def as_numpy(state):
    return {name: x.numpy() for name, x in state.items()}


def load(state):
    config, leaves, _ = weights.from_torch(as_numpy(state))
    model = weights.abstract_model(config)
    return nnx.merge(nnx.graphdef(model), weights.unflatten(jax.tree.map(jnp.asarray, leaves)))


@functools.partial(jax.jit, static_argnames="method")
def call(model, method, x):
    return getattr(model, method)(x)


def relative(found, wanted):
    wanted = np.asarray(wanted)
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


@pytest.fixture(scope="module")
def small():
    state = torch_clip.random_state_dict(**SMALL)
    return state, load(state)


@pytest.fixture(scope="module")
def images_bhwc():
    return np.random.default_rng(0).normal(size=(3, 96, 96, 3)).astype(np.float32)


def test_trunk_is_torchs(small, images_bhwc):
    state, model = small
    dense_bchw = torch_clip.dense(state, torch.from_numpy(images_bhwc).permute(0, 3, 1, 2))
    assert (
        relative(call(model, "dense_features", images_bhwc), dense_bchw.permute(0, 2, 3, 1)) < 1e-5
    )


def test_folded_trunk_is_the_trunk(small, images_bhwc):
    state, model = small
    before = weights.flatten(model)
    folded = model.folded()
    leaves = weights.flatten(folded)
    assert not any("/bn" in path or path.endswith("/var") for path in leaves)
    # The model itself is left as the checkpoint has it.
    for path, x in weights.flatten(model).items():
        np.testing.assert_array_equal(x, before[path])
    dense_bchw = torch_clip.dense(state, torch.from_numpy(images_bhwc).permute(0, 3, 1, 2))
    wanted = dense_bchw.permute(0, 2, 3, 1)
    assert relative(call(folded, "dense_features", images_bhwc), wanted) < 1e-5


@pytest.mark.parametrize("size", [(7, 7), (8, 6), (1, 2)])
def test_winograds_form_is_the_convolution(size):
    rng = np.random.default_rng(0)
    x_bhwc = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel_hwcd = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)
    wanted_bdhw = torch.nn.functional.conv2d(
        torch.from_numpy(x_bhwc).permute(0, 3, 1, 2),
        torch.from_numpy(kernel_hwcd).permute(3, 2, 0, 1),
        padding=1,
    )
    found_bhwd = winograd.convolve(x_bhwc, winograd.transform(kernel_hwcd))
    assert relative(found_bhwd, wanted_bdhw.permute(0, 2, 3, 1)) < 1e-6


def test_folded_pool_is_the_textbooks(small):
    state, model = small
    dense_bhwc = np.random.default_rng(1).exponential(size=(5, 3, 3, 256)).astype(np.float32)
    wanted = torch_clip.pool(state, torch.from_numpy(dense_bhwc).permute(0, 3, 1, 2))
    assert relative(call(model, "attnpool", dense_bhwc), wanted) < 1e-5


def test_folded_pools_gradients_are_the_textbooks(small):
    state, model = small
    dense_bhwc = np.random.default_rng(1).exponential(size=(5, 3, 3, 256)).astype(np.float32)
    direction = np.random.default_rng(2).normal(size=(5, 32)).astype(np.float32)

    trained = {k: v.clone().requires_grad_() for k, v in state.items() if "attnpool" in k}
    dense_bchw = torch.from_numpy(dense_bhwc).permute(0, 3, 1, 2).requires_grad_()
    (torch_clip.pool(trained, dense_bchw) * torch.from_numpy(direction)).sum().backward()

    graphdef, params = nnx.split(model.attnpool)

    def loss(params, dense_bhwc):
        return (nnx.merge(graphdef, params)(dense_bhwc) * direction).sum()

    grads, grad_bhwc = jax.grad(loss, argnums=(0, 1))(nnx.to_pure_dict(params), dense_bhwc)
    assert relative(grad_bhwc, dense_bchw.grad.permute(0, 2, 3, 1)) < 1e-5
    found = weights.to_torch(
        {f"attnpool/{path}": x for path, x in traverse_util.flatten_dict(grads, sep="/").items()}
    )
    # The textbook leaves rounding noise in place of the key bias's gradient; ours is zero.
    assert not found.pop("visual.attnpool.k_proj.bias").any()
    for name, grad in found.items():
        assert relative(grad, trained[name].grad) < 1e-5, name


def test_attention_is_the_softmax_over_cells(small):
    _, model = small
    dense_bhwc = np.random.default_rng(1).exponential(size=(2, 3, 3, 256)).astype(np.float32)
    attention_bhwn = model.attnpool.attention(dense_bhwc)
    assert attention_bhwn.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(attention_bhwn.sum((1, 2)), 1, rtol=1e-5)
    # Where the mean token has all of a head's weight, too.
    attention_bhwn = model.attnpool.attention(1e5 * dense_bhwc)
    np.testing.assert_allclose(attention_bhwn.sum((1, 2)), 1, rtol=1e-5)


def test_pool_refuses_a_map_of_another_size():
    pool = AttentionPool(3, 128, 16, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"3 x 3 cells, not 4 x 4: give images of 96 x 96"):
        pool(jnp.zeros((1, 4, 4, 128)))


def test_text_tower_is_torchs(small):
    state, model = small
    tokens = clip.tokenize(["a photo of a dog.", "", "two cats & a very long-winded zebra"])
    wanted = torch_clip.text(state, torch.from_numpy(tokens).long())
    assert relative(call(model, "encode_text", tokens), wanted) < 1e-5
    shortest = int(tokens.argmax(-1).max()) + 1
    assert relative(call(model, "encode_text", tokens[:, :shortest]), wanted) < 1e-5


def test_text_tower_knows_gelu(small):
    state, _ = small
    config, leaves, _ = weights.from_torch(as_numpy(state), activation="gelu")
    model = nnx.merge(nnx.graphdef(weights.abstract_model(config)), weights.unflatten(leaves))
    tokens = clip.tokenize(["a photo of a dog."])
    quick = torch_clip.text(state, torch.from_numpy(tokens).long())
    assert 1e-4 < relative(call(model, "encode_text", tokens), quick) < 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_released_shapes_load(name):
    """All five, from checkpoints of OpenAI's layout; zeros without memory stand for the values."""
    config = PRESETS[name]
    shapes = torch_clip.shapes(
        config.vision_layers, config.vision_width, config.embed_dim, config.image_size,
        config.text_width, config.text_layers,
    )  # fmt: skip
    tensors = {n: np.broadcast_to(np.float16(0), shape) for n, shape in shapes.items()}
    found, leaves, _ = weights.from_torch(tensors)
    assert found == config
    assert sum(x.size for x in leaves.values()) == sum(x.size for x in tensors.values())
    model = weights.abstract_model(config)
    assert {p: x.shape for p, x in weights.flatten(model).items()} == {
        p: x.shape for p, x in leaves.items()
    }


def test_rn50_whole(tmp_path):
    """The full-size RN50 from a file, both towers, against torch."""
    config = PRESETS["RN50"]
    state = torch_clip.random_state_dict(
        layers=config.vision_layers, width=config.vision_width, embed_dim=config.embed_dim,
        image_size=config.image_size, text_width=config.text_width, text_layers=config.text_layers,
    )  # fmt: skip
    torch.save(state, tmp_path / "RN50.pt")
    torch_files.convert(tmp_path / "RN50.pt", tmp_path / "RN50")
    model = clip.load(tmp_path / "RN50")
    assert model.config == config
    images_bhwc = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        dense_bchw = torch_clip.dense(state, torch.from_numpy(images_bhwc).permute(0, 3, 1, 2))
        image_bd = torch_clip.pool(state, dense_bchw)
        tokens = clip.tokenize(["a photo of a dog."])
        text_bd = torch_clip.text(state, torch.from_numpy(tokens).long())
    assert (
        relative(call(model, "dense_features", images_bhwc), dense_bchw.permute(0, 2, 3, 1)) < 1e-4
    )
    assert relative(call(model, "encode_image", images_bhwc), image_bd) < 1e-4
    assert relative(call(model.folded(), "encode_image", images_bhwc), image_bd) < 1e-4
    assert relative(call(model, "encode_text", tokens), text_bd) < 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.bfloat16, 0.05), (jnp.float16, 0.005)])
def test_trunk_in_16_bits_keeps_float32_masters(small, images_bhwc, dtype, bound):
    _, model = small
    graphdef = nnx.graphdef(weights.abstract_model(model.config, dtype))
    cast = nnx.merge(graphdef, nnx.state(model))
    dense = call(cast, "dense_features", images_bhwc)
    assert dense.dtype == dtype
    assert {x.dtype for x in jax.tree.leaves(nnx.state(cast))} == {jnp.dtype("float32")}
    assert relative(dense.astype(jnp.float32), call(model, "dense_features", images_bhwc)) < bound
    assert call(cast, "encode_image", images_bhwc).dtype == jnp.float32
    folded = cast.folded()
    assert {x.dtype for x in jax.tree.leaves(nnx.state(folded.visual))} == {dense.dtype}
    assert relative(call(folded, "dense_features", images_bhwc).astype(jnp.float32), dense) < bound


def test_tokenizer_matches_published_tokens():
    """Numbers that OpenAI's README and model cards show; `test_golden` has more."""
    tokens = clip.tokenize(["a diagram", "a dog"])
    assert tokens.shape == (2, 77)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[0, :5], [49406, 320, 22697, 49407, 0])
    np.testing.assert_array_equal(tokens[1, :5], [49406, 320, 1929, 49407, 0])


def test_tokenizer_undoes_entities_and_spaces():
    plain = clip.tokenize(['cats & "dogs" <b>'])
    np.testing.assert_array_equal(clip.tokenize(["cats  &amp;amp;\t“dogs” &lt;b&gt;\n"]), plain)


def test_tokenizer_names_the_text_that_is_too_long():
    long = "photo " * 80
    with pytest.raises(ValueError, match=r"'photo photo .*\.\.\.' has 82 tokens, of at most 77"):
        clip.tokenize(["short", long])
    tokens = clip.tokenize([long], truncate=True)
    assert tokens[0, -1] == 49407
    with pytest.raises(ValueError, match="list of texts"):
        clip.tokenize("a photo")


def test_presets_are_published_sizes():
    assert PRESETS["RN50"].dense_shape == (7, 7, 2048)
    assert PRESETS["RN50x16"].dense_shape == (12, 12, 3072)
