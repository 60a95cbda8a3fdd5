"""A small CLIP with random weights, and a smaller checkpoint of the form that OpenAI released."""

import numpy as np
import pytest
import torch

from tests.clip import parity
from tools import torch_clip


@pytest.fixture(scope="session")
def small():
    """A torch state dict, and the model that it is converted to."""
    state = torch_clip.random_state_dict(
        layers=(1, 2, 1, 1), width=8, embed_dim=32, image_size=96, text_width=128, text_layers=2
    )
    return state, parity.load(state)


@pytest.fixture(scope="session")
def images_bhwc():
    return np.random.default_rng(0).normal(size=(3, 96, 96, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def state():
    """As OpenAI stores it: mostly fp16, norms and positions fp32, batch counts, three integers."""
    state = torch_clip.random_state_dict(
        layers=(1, 1, 1, 1), width=8, embed_dim=16, image_size=64, text_width=64, text_layers=1
    )
    for name in list(state):
        if state[name].ndim > 1 and "positional" not in name:
            state[name] = state[name].half()
        if name.endswith("running_var"):
            count = name.replace("running_var", "num_batches_tracked")
            state[count] = torch.tensor(4711)
    for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
        state[name] = torch.tensor(value)
    return state


@pytest.fixture
def checkpoint(state, tmp_path):
    """The file of `state`."""
    torch.save(state, tmp_path / "in.pt")
    return tmp_path / "in.pt"
