"""What tests share: eight fake devices, a tiny CLIP with a tiny data set, the golden files."""

import gc
import os
import pathlib
import subprocess
import tempfile

import jax
import numpy as np
import pytest

from safe_jax import clip
from safe_jax.data import digits
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime import devices
from tests import fake_features, in_process, tiny
from tests.commands import ROOT, Done, command

jax.config.update("jax_num_cpu_devices", 8)

pytest_plugins = ["tests.fitted", "tests.safe_run", "tests.siglip.released"]

# Most of the tests' time goes into compiling. What one process has compiled serves the others, the
# workers of `pytest -n` too, which inherit the folder's name; and as programs run but a few times,
# XLA spends little on optimizing them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
for name, value in {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": os.environ["JAX_COMPILATION_CACHE_DIR"],
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)

# Tracing makes many objects and little garbage: a tenth of the time went into looking for it.
gc.set_threshold(50_000, 20, 100)


def pytest_addoption(parser):
    parser.addoption(
        "--seconds", type=float, default=20, help="how long tests/test_hostile.py damages files"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What was captured becomes valid UTF-8, as the workers of `pytest -n` send it."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def pytest_collection_finish():
    """What is imported is no garbage, and need not be looked through for it."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """What a test recorded is told, whichever process it ran in."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


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


@pytest.fixture
def one_device(monkeypatch):
    """Runs in this process use one device, as those in a process of their own do."""
    _use_devices(monkeypatch, 1)


@pytest.fixture(scope="module")
def one_device_throughout():
    """As `one_device`, for what the tests of a module share as well."""
    with pytest.MonkeyPatch.context() as patch:
        _use_devices(patch, 1)
        yield


@pytest.fixture
def two_devices(monkeypatch):
    """Runs in this process use two of its devices: to compile for eight takes far longer."""
    _use_devices(monkeypatch, 2)


_make_mesh = devices.make_mesh


def _use_devices(monkeypatch, count):
    mesh = _make_mesh(jax.devices()[:count])
    monkeypatch.setattr(
        devices, "make_mesh", lambda devices=None: _make_mesh(devices) if devices else mesh
    )


@pytest.fixture(scope="module")
def optimized():
    """The programs of a module are compiled as a user's are, for they run long enough."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def little_to_collect():
    """For tests of reads that fail: after each the process looks for garbage.

    That takes two seconds once other tests have left a million objects. Those are left out.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def done(tiny_root, tmp_path_factory):
    """A run that nothing disturbed; its process lists all that it imports."""
    workdir, cache = tmp_path_factory.mktemp("done"), tmp_path_factory.mktemp("cache")
    python, *arguments = command(tiny_root, workdir, cache)
    process = subprocess.run(
        [python, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-5000:]
    return Done(workdir, cache, process)


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """The digits' scenes, which take some seconds to draw: read them only."""
    root = tmp_path_factory.mktemp("digits")
    digits.make(root)
    return root


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


@pytest.fixture(scope="session")
def every_method(tiny_root, tmp_path_factory):
    """A run of all methods on one subset: three epochs of SAFE, two of each method tuned after."""
    epochs = {
        f"{name}.epochs": 2
        for name, method in METHODS.items()
        if "epochs" in method.knobs.model_fields
    }
    return in_process.watch_tiny(
        tiny_root, tmp_path_factory.mktemp("every"), tmp_path_factory.mktemp("every_cache"),
        views=2, epochs=3, methods=",".join(METHODS), **epochs,
    )  # fmt: skip
