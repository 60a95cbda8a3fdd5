"""The Orbax directory of converted weights: what is written, read back, and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from orbax.checkpoint import v1 as ocp

from safe_jax import backbones, clip
from safe_jax.checkpoints import state_dict, trees, weights
from safe_jax.clip import convert
from safe_jax.clip.family import FAMILY
from safe_jax.runtime.errors import InputError
from tests import tiny
from tests.clip.parity import as_numpy

pytestmark = pytest.mark.usefixtures("little_to_collect")


@pytest.fixture(scope="module")
def directory(state, tmp_path_factory):
    """The converted weights of `state`: read them only."""
    directory = tmp_path_factory.mktemp("weights") / "orbax"
    converted = state_dict.from_torch(FAMILY, as_numpy(state))
    weights.save(directory, converted.config, converted.leaves, converted.extras)
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_resolution": torch.tensor(224)}, "input_resolution is 224, but .* 64 pixels"),
        (
            {"ln_final.bias": torch.zeros(64, dtype=torch.float64)},
            "cast them:\n  ln_final.bias: flo",
        ),
        ({"ln_final.bias": torch.full((64,), torch.nan)}, "not finite:\n  ln_final.bias"),
        ({"logit_scale": torch.tensor(100.0)}, r"logit_scale is 100, .* logarithm is expected"),
        ({"visual.bn1.running_var": -torch.ones(4)}, "negative variances:\n  visual/bn1/var"),
        ({"visual.layer4.999999.conv1.weight": torch.zeros(1)}, "layer4.999999.* not a part of"),
        ({"transformer.resblocks.%s.x" % ("9" * 5000): torch.zeros(1)}, "not a part of"),
        ({"logit_scale": torch.tensor(-1e30)}, r"logit_scale is -1e\+30, .* is expected"),
        (
            {"vocab_size": torch.zeros(3)},
            r"whole .*\n  vocab_size: shape \(3,\) float32",
        ),
        ({"vocab_size": torch.zeros(0)}, r"vocab_size: shape \(0,\)"),
        ({"input_resolution": torch.tensor(torch.nan)}, "input_resolution: nan"),
        ({"input_resolution": torch.tensor(torch.inf)}, "input_resolution: inf"),
        ({"vocab_size": torch.tensor(0.5)}, r"vocab_size: 0.5 \(float32\)"),
        ({"visual.bn1.num_batches_tracked": torch.tensor(1e30)}, "whole numbers are expected"),
        ({3: torch.zeros(1), None: torch.zeros(1)}, "keys are no names:\n  3\n  None"),
        ({"visual.attnpool.positional_embedding": torch.zeros(0, 64)}, "has 0 rows; a square map"),
        ({"visual.attnpool.positional_embedding": torch.zeros(1, 64)}, "has 1 rows; a square map"),
        ({"text_projection": torch.zeros(64, 0)}, "embed_dim=0: at least 1 and at most"),
        ({"text_projection": torch.zeros(0, 1 << 60)}, "embed_dim=1152921504606846976: at least"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)}, "vision_width=1: a multiple"),
        ({"ln_final.weight": torch.zeros(65)}, "text_width=65: a multiple of 64, .*, is expected"),
        (
            {f"visual.layer4.{n}.conv1.weight": torch.zeros(1) for n in range(3000)},
            "vision_layers.3.=3000: at least 1 and at most 50 is expected",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(state, change, message):
    with pytest.raises(InputError, match=message):
        state_dict.from_torch(FAMILY, as_numpy(state | change))


def test_load_gives_float32_parameters(directory):
    model = clip.load(directory, dtype=jnp.bfloat16)
    leaves = trees.flatten(model)
    assert {x.dtype for x in leaves.values()} == {np.dtype(np.float32)}
    assert isinstance(leaves["logit_scale"], jax.Array)
    metadata = backbones.read_metadata(directory)
    assert metadata.config == model.config
    assert metadata.digest == weights.digest(leaves, model.config)


def test_the_digest_follows_values_and_shape(directory):
    model = clip.load(directory)
    leaves, config = trees.flatten(model), model.config
    digest = weights.digest(leaves, config)
    assert weights.digest(leaves | {"logit_scale": jnp.float32(0)}, config) != digest
    assert weights.digest(leaves, config.model_copy(update={"activation": "gelu"})) != digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clip": {"vision_width": 0}},
            "clip.vision_width=0: a multiple of 2, at most 16384, is expected",
        ),
        ({"clip": {"vision_layers": [1, 1, 1]}}, "clip.vision_layers[3] is missing"),
        (
            {"dtypes": {"logit_scale": "int8"}},
            "dtypes.logit_scale='int8': one of float32, float16, bfloat16, uint8 is expected",
        ),
        (
            {"integers": {"vocab_size": 0.5}},
            "integers.vocab_size=0.5: a whole number is expected",
        ),
        ({"digest": None}, "digest=None: a text is expected"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(directory, tmp_path, change, message):
    metadata = dict(ocp.metadata(directory).custom_metadata)
    for key, value in change.items():
        metadata[key] = metadata[key] | value if isinstance(value, dict) else value
    ocp.save(tmp_path / "other", {"x": np.zeros(1)}, custom_metadata=metadata)
    with pytest.raises(InputError) as raised:
        backbones.read_metadata(tmp_path / "other")
    assert str(raised.value) == f"{tmp_path / 'other'}: {message}"


def test_what_is_no_directory_of_weights_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    ocp.save(tmp_path / "foreign", {"x": np.zeros(1)})
    for name in ("absent", "empty", "foreign"):
        with pytest.raises(InputError, match=rf"{name} holds no converted weights: make them with"):
            backbones.read_metadata(tmp_path / name)


def test_an_existing_directory_is_kept(checkpoint, tmp_path):
    (tmp_path / "orbax").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert.convert(checkpoint, tmp_path / "orbax")
    assert not list((tmp_path / "orbax").iterdir())


@pytest.mark.parametrize("second_fails", [False, True])
def test_of_two_conversions_to_one_place_the_first_to_end_stays(
    tmp_path, monkeypatch, second_fails
):
    """The second begins and ends while the first has its arrays written but no name yet."""
    leaves, save = tiny.leaves(), weights.ocp.save
    destination = tmp_path / "RN50"

    def interleaved(path, tree, **given):
        save(path, tree, **given)
        monkeypatch.setattr(weights.ocp, "save", failing if second_fails else save)
        if second_fails:
            with pytest.raises(InputError, match="RN50 cannot be written: broken"):
                weights.save(destination, tiny.CONFIG, leaves)
        else:
            weights.save(destination, tiny.CONFIG, leaves)

    def failing(path, *_, **__):
        (path.parent / f"{path.name}.orbax-checkpoint-tmp-1").mkdir()
        raise ValueError("broken")

    monkeypatch.setattr(weights.ocp, "save", interleaved)
    if second_fails:
        weights.save(destination, tiny.CONFIG, leaves)
    else:
        with pytest.raises(InputError, match="RN50 exists already: remove it, or choose another"):
            weights.save(destination, tiny.CONFIG, leaves)
    backbones.load(destination)  # which verifies it
    assert [path.name for path in tmp_path.iterdir()] == ["RN50"]
