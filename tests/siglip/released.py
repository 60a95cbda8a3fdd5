"""A SigLIP with random weights: a plugin of fixtures."""

import numpy as np
import pytest

from safe_jax import backbones


@pytest.fixture(scope="session")
def siglip(tmp_path_factory):
    """A folder as on the Hub, the model of `transformers`, and the Orbax directory made of it."""
    from safe_jax.siglip import convert
    from tools.torch_siglip import SHAPES, write

    root = tmp_path_factory.mktemp("siglip")
    theirs = write(root / "hub", **SHAPES["base-patch16"])
    convert.convert(root / "hub", root / "siglip_tiny")
    return root / "hub", theirs, root / "siglip_tiny"


@pytest.fixture(scope="session")
def ours(siglip):
    return backbones.load(siglip[2])


@pytest.fixture(scope="session")
def pixels_bhwc():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
