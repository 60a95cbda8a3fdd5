"""The whole model against torch."""

import jax
import numpy as np
import pytest
import torch

from safe_jax import clip
from safe_jax.clip import convert
from safe_jax.clip.config import PRESETS
from safe_jax.runtime.errors import InputError
from tests.clip.parity import call, relative, to_torch
from tools import torch_clip


@jax.jit
def image_features(model, images_bhwc):
    """The dense maps, the features, and the features of the folded model, compiled together."""
    dense_bhwc, feature_bd = model.dense_features(images_bhwc), model.encode_image(images_bhwc)
    return dense_bhwc, feature_bd, model.folded().encode_image(images_bhwc)


def test_an_rn50_is_torchs(tmp_path):
    """The full size, from a file, both towers."""
    config = PRESETS["RN50"]
    state = torch_clip.random_state_dict(
        layers=config.vision_layers, width=config.vision_width, embed_dim=config.embed_dim,
        image_size=config.image_size, text_width=config.text_width, text_layers=config.text_layers,
    )  # fmt: skip
    torch.save(state, tmp_path / "RN50.pt")
    convert.convert(tmp_path / "RN50.pt", tmp_path / "RN50")
    model = clip.load(tmp_path / "RN50")
    assert model.config == config
    images_bhwc = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected_bchw = torch_clip.dense(state, to_torch(images_bhwc))
        expected_image_bd = torch_clip.pool(state, expected_bchw)
        tokens = clip.tokenize(["a photo of a dog."])
        expected_text_bd = torch_clip.text(state, torch.from_numpy(tokens).long())
    dense_bhwc, image_bd, folded_image_bd = image_features(model, images_bhwc)
    assert relative(dense_bhwc, expected_bchw.permute(0, 2, 3, 1)) < 1e-4
    assert relative(image_bd, expected_image_bd) < 1e-4
    assert relative(folded_image_bd, expected_image_bd) < 1e-4
    assert relative(call(model, "encode_text", tokens), expected_text_bd) < 1e-4


def test_load_says_how_to_get_weights(tmp_path):
    with pytest.raises(InputError, match=r"python tools/convert_torch_weights\.py"):
        clip.load(tmp_path / "nowhere")


def test_load_refuses_a_checkpoint_that_is_not_converted(checkpoint):
    with pytest.raises(InputError, match=r"in\.pt is a file: convert it, `python tools/convert_"):
        clip.load(checkpoint)


IMAGE, TOKENS = np.zeros((64, 64, 3), np.float32), np.zeros(77, np.int32)


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        ("encode_image", IMAGE, r"\(b, 64, 64, 3\) are .* not \(64, 64, 3\): image\[None\] makes"),
        ("encode_image", IMAGE[None].transpose(0, 3, 1, 2), r"not \(1, 3, 64, 64\)$"),
        ("encode_image", IMAGE[None, :32, :32], r"not \(1, 32, 32, 3\)$"),
        (
            "dense_features",
            IMAGE[None].astype(np.uint8),
            r"float32 images are .*, not uint8: clip\.",
        ),
        (
            "encode_text",
            "a cat",
            r"tokens of shape \(b, 77\) are expected, not \(\): clip\.tokenize",
        ),
        ("encode_text", TOKENS, r"not \(77,\)"),
        ("encode_text", TOKENS.reshape(1, 77).repeat(2, 1), r"not \(1, 154\)"),
    ],
)
def test_arrays_of_another_shape_or_kind_are_refused_by_name(model, function, given, message):
    with pytest.raises(ValueError, match=message):
        getattr(model, function)(given)
