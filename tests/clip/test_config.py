"""The shapes of models: declared with bounds, and without JAX."""

import subprocess
import sys

import pytest

from safe_jax.clip import config
from safe_jax.clip.config import PRESETS, CLIPConfig
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError


def test_presets_have_the_published_sizes():
    assert PRESETS["RN50"].dense_shape == (7, 7, 2048)
    assert PRESETS["RN50x16"].dense_shape == (12, 12, 3072)


def test_a_config_is_a_key():
    same = CLIPConfig(**dict(PRESETS["RN50"]))
    assert {PRESETS["RN50"]: "RN50"}[same] == "RN50"
    assert same != same.model_copy(update={"activation": "gelu"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 0}, "clip.embed_dim=0: at least 1 and at most 1048576 is expected"),
        ({"image_size": 224.0}, "clip.image_size=224.0: a whole number is expected"),
        ({"vision_layers": [3, 4, 6]}, "clip.vision_layers[3] is missing"),
        (
            {"vision_layers": [3, 4, 6, 3, 1]},
            "clip.vision_layers=(3, 4, 6, 3, 1): at most 4 values are expected",
        ),
        (
            {"text_layers": 10**30},
            f"clip.text_layers={10**30}: at least 1 and at most 50 is expected",
        ),
        (
            {"vision_width": 1},
            "clip.vision_width=1: a multiple of 2, at most 16384, is expected",
        ),
        (
            {"image_size": 100},
            "clip.image_size=100: a multiple of 32, at most 16384, is expected",
        ),
        ({"text_width": 8}, "clip.text_width=8: a multiple of 64, at most 65536, is expected"),
        ({"text_layers": True}, "clip.text_layers=True: a whole number is expected"),
        ({"activation": "relu"}, "clip.activation='relu': one of quick_gelu, gelu is expected"),
        ({"patch_size": 16}, "clip.patch_size is unknown: remove it"),
    ],
)
def test_a_mistake_is_named_with_what_is_expected(change, message):
    with pytest.raises(InputError) as raised:
        schema.check(CLIPConfig, dict(PRESETS["RN50"]) | change, "clip.")
    assert str(raised.value) == message


def test_the_module_loads_no_jax():
    """Run as a file, for the package that it is in does load it."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, config.__file__], check=True)
