"""The methods without a cache: their formulas, and which of their parameters train."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import default
from safe_jax.experiment import knobs
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.clip_adapter import ClipAdapter, ClipAdapterKnobs
from safe_jax.methods.prolip import ProLIP, ProLIPKnobs
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import fit, train
from tests.fake_features import DIM, batch_of, setting, unit


def zero_shot(features, data, scale):
    """The formula by NumPy."""
    return scale * unit(np.asarray(features)) @ data.text.T


def start(name, model, data, **changed):
    """Method, parameters and context before the first step; `changed` are knobs of its own."""
    settings = METHODS[name].settings()
    return METHODS[name].start(setting(model, data, shots=1), settings.model_copy(update=changed))


def tune(start, name, batch, steps=4, **changed):
    """The logits after steps of a method's own recipe, and the paths of the leaves that changed."""
    (recipe,) = knobs.recipes(knobs.read(default.get_config()), name)
    recipe = recipe.model_copy(update={"warmup_epochs": 0.0} | changed)
    before = jax.tree.map(np.asarray, start.params)
    plan = types.SimpleNamespace(steps=steps, steps_per_epoch=1)
    mesh = devices.make_mesh(jax.devices()[:1])
    state, stepper = fit.start_steps(start, recipe, plan, mesh)
    for _ in range(steps):
        state, _ = stepper.step(state, batch)
    params = train.join_params(state.params, stepper.frozen.params)
    same = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == y.tobytes(), params, before)
    return start.method.logits(params, start.context, batch), paths_of(same, False)


def paths_of(tree, wanted=None):
    """The paths of a tree's leaves; of those alone that equal `wanted`, if it is given."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in leaves
        if wanted is None or leaf == wanted
    }


@pytest.mark.parametrize("name", ["prolip", "linear_probe", "partial"])
def test_before_the_first_step_it_is_zero_shot(model, scale, data, real_batch, name):
    begun = start(name, model, data)
    wanted = zero_shot(real_batch["original_bd"], data, scale)
    logits = begun.method.logits(begun.params, begun.context, real_batch)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    at_rate_0, _ = tune(begun, name, real_batch, learning_rate=0.0)
    np.testing.assert_array_equal(at_rate_0, logits)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("prolip", {"c_proj/kernel"}),
        ("linear_probe", {"classifier"}),
        ("clip_adapter", {"down", "up"}),
    ],
)
def test_only_the_parameters_of_the_recipes_pattern_change(model, data, real_batch, name, trained):
    assert tune(start(name, model, data), name, real_batch)[1] == trained


def test_partial_tuning_trains_the_pool_and_the_head_or_what_the_pattern_names(
    model, data, real_batch
):
    begun = start("partial", model, data)
    _, changed = tune(begun, "partial", real_batch)
    pool = paths_of(nnx.to_pure_dict(nnx.state(model.attnpool)))
    everything = {f"attnpool/{path}" for path in pool} | {"classifier"}
    # The key bias cannot matter, so nothing but weight decay could move it, and it starts at 0.
    assert everything >= changed >= everything - {"attnpool/k_proj/bias"}
    assert tune(begun, "partial", real_batch, trainable="classifier")[1] == {"classifier"}


def test_prolips_distance_counts_once_and_holds_the_projection(model, scale, data, real_batch):
    method, params, context = start("prolip", model, data, regularizer=0.5)
    moved = jax.tree.map(jnp.copy, params)
    moved["c_proj"]["kernel"] = moved["c_proj"]["kernel"] + 0.01
    alone = optax.softmax_cross_entropy_with_integer_labels(
        method.logits(moved, context, real_batch), real_batch["label_b"]
    )
    distance = 0.5 * 0.01**2 * params["c_proj"]["kernel"].size
    np.testing.assert_allclose(
        method.loss(moved, context, real_batch).mean(), alone.mean() + distance, rtol=1e-4
    )

    wanted = zero_shot(real_batch["original_bd"], data, scale)
    free, held = (
        tune(
            start("prolip", model, data, regularizer=weight),
            "prolip", real_batch, steps=60, learning_rate=1e-3,
        )[0]
        for weight in (0.0, 1e6)
    )  # fmt: skip
    assert np.abs(held - wanted).max() < 0.02 * np.abs(free - wanted).max()


def test_prolips_lambda_is_divided_by_the_shots(model, data):
    settings = ProLIPKnobs(regularizer=2.0)
    for shots in (1, 16):
        context = ProLIP.start(setting(model, data, shots=shots), settings).context
        assert context.weight == np.float32(2 / shots)


def test_clip_adapter_with_ratio_0_is_zero_shot(model, scale, data):
    wanted = zero_shot(data.original, data, scale)
    for ratio in (0.0, 0.3):
        method, params, context = start("clip_adapter", model, data, ratio=ratio)
        logits = method.logits(params, context, batch_of(data))
        assert np.allclose(logits, wanted, rtol=1e-5, atol=1e-5) == (ratio == 0)
    adapted = np.maximum(np.maximum(data.original @ params["down"], 0) @ params["up"], 0)
    formula = scale * unit(0.3 * adapted + 0.7 * data.original) @ data.text.T
    np.testing.assert_allclose(logits, formula, rtol=1e-4, atol=1e-4)
    assert params["down"].shape == (DIM, DIM // 4)
    other_seed = ClipAdapter.start(setting(model, data, seed=1), ClipAdapterKnobs()).params
    assert not np.array_equal(other_seed["down"], params["down"])


def test_clip_adapter_refuses_a_bottleneck_without_channels(model, data):
    message = "config.clip_adapter.reduction=64: the features have 32 channels, and none would be"
    with pytest.raises(InputError, match=message):
        ClipAdapter.start(setting(model, data), ClipAdapterKnobs(reduction=64))
