"""What tests share: eight fake devices, a tiny CLIP with a tiny data set, the golden files."""

import os
import pathlib
import tempfile

import jax
import numpy as np
import pytest

from safe_jax import clip
from tests import fake_features, tiny
from tests.commands import Done, run

jax.config.update("jax_num_cpu_devices", 8)

# Many tests run the command in a process of its own: what one has compiled serves the others.
_COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
for name, value in {
    "jax_compilation_cache_dir": _COMPILED.name,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)

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


@pytest.fixture(scope="session")
def done(tiny_root, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir, cache = tmp_path_factory.mktemp("done"), tmp_path_factory.mktemp("cache")
    process = run(tiny_root, workdir, cache)
    assert process.returncode == 0, process.stderr
    return Done(workdir, cache, process)


@pytest.fixture(scope="session")
def model(tiny_root):
    return clip.load(tiny_root / "clip_tiny")


@pytest.fixture(scope="session")
def scale(model):
    return float(np.exp(model.logit_scale[...]))


@pytest.fixture(scope="session")
def data():
    """Features that no model made."""
    return fake_features.make()
