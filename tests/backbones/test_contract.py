"""What every backbone gives, and that the rooms above know none of them."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from safe_jax import backbones
from safe_jax.checkpoints import state_dict, trees
from safe_jax.methods.prolip import project
from safe_jax.runtime.errors import InputError
from tests.clip.parity import call

PACKAGE = pathlib.Path(backbones.__file__).parents[1]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def model(request, tiny_root):
    if request.param == "clip":
        return backbones.load(tiny_root / "clip_tiny")
    return backbones.load(request.getfixturevalue("siglip")[2])


@pytest.fixture(scope="module")
def dense_bhwc(model):
    shape = (3, *model.config.dense_shape)
    return np.random.default_rng(0).exponential(size=shape).astype(np.float32)


def test_shapes_are_those_of_the_config(model):
    size = model.image_size
    assert model.config.preprocessing.size == size
    images_bhwc = jnp.zeros((2, size, size, 3))
    dense_bhwc = call(model, "dense_features", images_bhwc)
    assert dense_bhwc.shape == (2, *model.config.dense_shape)
    feature_bd = call(model, "encode_image", images_bhwc)
    assert feature_bd.shape == (2, model.config.embed_dim)
    np.testing.assert_allclose(feature_bd, call(model, "attnpool", dense_bhwc), rtol=1e-5)
    tokens_bt = model.tokenize(["a photo of a cat", "a dog"])
    assert tokens_bt.dtype == np.int32
    assert call(model, "encode_text", tokens_bt).shape == (2, model.config.embed_dim)
    assert model.logit_scale[...].shape == ()


def test_the_pool_takes_a_banks_maps(model, dense_bhwc):
    feature_bd = call(model.attnpool, "__call__", dense_bhwc.astype(np.float16))
    assert feature_bd.dtype == jnp.float32
    rounded = call(model.attnpool, "__call__", dense_bhwc.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(feature_bd, rounded)


def test_the_last_projection_gives_the_feature(model, dense_bhwc):
    c_proj = nnx.to_pure_dict(nnx.state(model.attnpool.c_proj))
    unprojected_bu = call(model.attnpool, "unprojected", dense_bhwc)
    feature_bd = call(model.attnpool, "__call__", dense_bhwc)
    np.testing.assert_allclose(project(unprojected_bu, c_proj), feature_bd, rtol=1e-4, atol=1e-5)


def test_attention_sums_to_one(model, dense_bhwc):
    attention_bhwa = call(model.attnpool, "attention", dense_bhwc)
    assert attention_bhwa.shape[:3] == dense_bhwc.shape[:3]
    np.testing.assert_allclose(attention_bhwa.sum((1, 2)), 1, rtol=1e-5)


def test_the_image_tower_has_the_same_arrays(model):
    tower = model.image_tower()
    assert tower.image_tower() is tower
    whole = trees.flatten(model)
    for path, x in trees.flatten(tower).items():
        assert x is whole[path]
    assert any(path.startswith("text/") for path in whole)
    assert not any(path.startswith("text/") for path in trees.flatten(tower))


def test_a_state_dict_and_back_is_exact(model):
    family = backbones.FAMILIES[model.config.family]
    state = state_dict.to_torch(family, trees.flatten(model))
    again = state_dict.from_state(family, state, model.config)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


ROOMS_THAT_MAY = "backbones", "checkpoints", "clip", "siglip"


def test_no_room_above_asks_which_backbone_it_is():
    asks = re.compile(r"siglip|SigLIP")
    found = [
        str(file.relative_to(PACKAGE))
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] not in ROOMS_THAT_MAY
        and any(asks.search(line.split("#")[0]) for line in code_lines(file))
    ]
    assert found == []


def code_lines(file):
    """The lines of a module without its docstrings."""
    return re.sub(r'"""(.|\n)*?"""', "", file.read_text()).splitlines()


def test_positions_are_interpolated_to_another_image_size(model, request, tiny_root):
    """As by torch's bicubic resize with antialias, which open_clip takes."""
    directory = tiny_root / "clip_tiny"
    if model.config.family == "siglip":
        directory = request.getfixturevalue("siglip")[2]
    path, before = backbones.FAMILIES[model.config.family].positions
    position_nc = trees.flatten(model)[path]
    old = model.config.dense_shape[0]
    for size in (96, 32):
        resized = backbones.load(directory, image_size=size)
        assert resized.image_size == resized.config.preprocessing.size == size
        images_bhwc = jnp.zeros((1, size, size, 3))
        dense_bhwc = jax.eval_shape(type(resized).dense_features, resized, images_bhwc)
        assert dense_bhwc.shape[1:] == resized.config.dense_shape
        assert np.isfinite(call(resized, "encode_image", images_bhwc)).all()
        found_nc = trees.flatten(resized)[path]
        np.testing.assert_array_equal(found_nc[:before], position_nc[:before])
        grid = torch.from_numpy(np.array(position_nc[before:])).reshape(1, old, old, -1)
        side = resized.config.dense_shape[0]
        expected = torch.nn.functional.interpolate(
            grid.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True
        )
        expected = expected.permute(0, 2, 3, 1).reshape(side * side, -1)
        np.testing.assert_allclose(found_nc[before:], expected, atol=1e-5)
        digest = backbones.read_metadata(directory, size).digest
        assert digest != backbones.read_metadata(directory).digest
    with pytest.raises(InputError, match=r"image_size=50: a multiple of (32|16) is expected"):
        backbones.read_metadata(directory, 50)
