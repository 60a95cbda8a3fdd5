"""What tests share: eight fake devices, a tiny CLIP with a tiny data set, the golden files."""

import pathlib

import jax
import pytest

from tests import tiny

jax.config.update("jax_num_cpu_devices", 8)

SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Golden files and photographs that are no part of the project; tests without them skip."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("needs the golden files, which are not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """A data set and weights as `tiny.make` leaves them: read them only."""
    root = tmp_path_factory.mktemp("tiny")
    tiny.make(root)
    return root


@pytest.fixture
def tiny_config(tiny_root, tmp_path):
    """A run of a few seconds, with its own cache."""
    return tiny.config(tiny_root, cache_dir=str(tmp_path / "cache"))
