"""The table between torch's names and ours, and the shape that is read off a checkpoint."""

import numpy as np
import pytest
import torch

from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip import table
from safe_jax.clip.config import PRESETS
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP
from safe_jax.runtime.errors import InputError
from tests.clip.parity import as_numpy
from tools import torch_clip


@pytest.mark.parametrize("name", PRESETS)
def test_released_shapes_fit(name):
    """All five, from checkpoints of OpenAI's layout; zeros without memory stand for the values."""
    config = PRESETS[name]
    shapes = torch_clip.shapes(
        config.vision_layers, config.vision_width, config.embed_dim, config.image_size,
        config.text_width, config.text_layers,
    )  # fmt: skip
    tensors = {n: np.broadcast_to(np.float16(0), shape) for n, shape in shapes.items()}
    assert table.infer_config(tensors) == config
    places = state_dict.match(FAMILY, tensors, config)
    assert {place.name for place in places.values()} == tensors.keys()
    model = trees.abstract_model(config, kind=CLIP)
    assert {p: x.shape for p, x in trees.flatten(model).items()} == {
        path: place.layout.to_ours(tensors[place.name]).shape for path, place in places.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": torch.zeros(2, 2)}, "ViT image tower"),
        ({"visual.attnpool.positional_embedding": torch.zeros(6, 256)}, "has 6 rows; a square map"),
        ({"token_embedding.weight": torch.zeros(0, 64)}, "vocab_size=0: at least 1 and at most"),
    ],
)
def test_a_shape_of_no_clip_resnet_is_refused(state, change, message):
    with pytest.raises(InputError, match=message):
        table.infer_config(as_numpy(state | change))


def test_a_checkpoint_without_the_tensors_that_tell_the_shape_is_refused():
    with pytest.raises(InputError, match=r"neither visual\.attnpool\.positional_embedding"):
        table.infer_config({"fc.weight": np.zeros((3, 3), np.float32)})


def test_blocks_that_are_missing_altogether_are_listed(state):
    tensors = {n: x for n, x in as_numpy(state).items() if "resblocks" not in n}
    tensors = {n: x for n, x in tensors.items() if not n.startswith("visual.layer3")}
    with pytest.raises(InputError) as raised:
        state_dict.from_torch(FAMILY, tensors)
    assert "- transformer.resblocks.0.ln_1.weight: missing" in str(raised.value)
    assert "- visual.layer3.0.conv1.weight: missing" in str(raised.value)
