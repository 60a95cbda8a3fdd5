"""The steps of a tuning: what trains and what stays, rate and decay, rows that do not count."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from safe_jax.methods.contract import Recipe, Start
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import fit, train
from safe_jax.tuning.train import Schedule
from tests.safe_run import Run, flat

TRAINABLE = "attnpool/c_proj/.*|.*positional_embedding"


@pytest.fixture
def model_with_minus_zeros(model):
    """Zeros of a sign that adding 0.0 to them would change."""
    model = nnx.clone(model)
    model.attnpool.k_proj.kernel[...] = model.attnpool.k_proj.kernel[...].at[0, 0, :5].set(-0.0)
    return model


def test_frozen_leaves_stay_bit_identical(model_with_minus_zeros, text_kd, maps_view):
    model = model_with_minus_zeros
    before = {
        path: x.tobytes() for path, x in flat(nnx.to_pure_dict(nnx.state(model.attnpool))).items()
    }
    run = Run(model, text_kd, maps_view, trainable=TRAINABLE)
    state = run.state
    for batch in run.batches():
        state, _ = run.step(state, batch)
    after = flat(train.join_params(state.params, run.stepper.frozen.params)["attnpool"])
    changed = {path for path, x in after.items() if x.tobytes() != before[path]}
    assert changed == {"c_proj/kernel", "c_proj/bias", "positional_embedding"}
    assert after.keys() == before.keys()
    kept = flat(nnx.to_pure_dict(nnx.state(model.attnpool)))  # the model's own leaves
    assert {path: x.tobytes() for path, x in kept.items()} == before


def test_optimizer_leaves_frozen_leaves_of_a_whole_tree_alone(model):
    """For those who hand in whole trees: no update, not even decay, for what is frozen."""
    optimizer = train.make_optimizer(TRAINABLE, 0.9, 0.999, 1e-8)
    params = {"attnpool": nnx.to_pure_dict(nnx.state(model.attnpool))}
    grads = jax.tree.map(jnp.ones_like, params)
    opt_state = optimizer.init(params)
    opt_state.hyperparams.update(learning_rate=1e-3, weight_decay=0.5)
    updates, _ = optimizer.update(grads, opt_state, params)
    for path, update in flat(updates["attnpool"]).items():
        assert update.any() == (path.startswith("c_proj") or path == "positional_embedding"), path


def test_optimizer_state_is_for_trained_leaves_alone(make_run):
    run = make_run(trainable="attnpool/c_proj/kernel")
    sizes = sorted(x.size for x in jax.tree.leaves(run.state.opt_state))
    # Two counts, rate and decay, two moments.
    assert sizes == [1, 1, 1, 1, 256 * 32, 256 * 32]
    assert len(jax.tree.leaves(run.state.params)) == 1


def test_pattern_without_match_raises(make_run):
    with pytest.raises(InputError, match=r"matches no parameter; choose from:\n  attnpool/"):
        make_run(trainable="attnpool/c_proj")


def test_rows_that_fill_a_batch_up_and_their_order_do_not_count(make_run):
    run = make_run()
    batch = list(run.batches())[2]  # four rows of eight
    np.testing.assert_array_equal(batch["mask_b"], [1, 1, 1, 1, 0, 0, 0, 0])
    _, loss = run.step(make_run().state, batch)
    order = np.array([6, 3, 1, 0, 2, 7, 5, 4])
    other = {k: jnp.asarray(np.asarray(x)[order]) for k, x in batch.items()}
    other["dense_bhwc"] = other["dense_bhwc"].at[0].set(1.0)  # a row that does not count
    _, again = run.step(make_run().state, other)
    np.testing.assert_allclose(again, loss, rtol=1e-6)


def test_rate_climbs_then_falls_to_zero():
    """Read off AdamW's own steps: with a constant gradient of one leaf each is the rate."""
    recipe = Recipe(trainable=".*", learning_rate=0.5, warmup_epochs=1.0, weight_decay=0.0)

    class Linear:
        def loss(self, params, context, batch):
            return params["c_proj"]

    plan = types.SimpleNamespace(steps=12, steps_per_epoch=4)
    mesh = devices.make_mesh(jax.devices()[:1])
    start = Start(Linear(), {"c_proj": jnp.zeros(1)}, None)
    state, stepper = fit.start_steps(start, recipe, plan, mesh)
    at = [0.0]
    for _ in range(12):
        state, _ = stepper.step(state, {"mask_b": jnp.ones(1)})
        at.append(float(state.params["c_proj"][0]))
    rates = -np.diff(at)
    cosine = [0.25 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, *cosine], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("warmup_epochs", "steps"), [(0.0, 7), (1.0, 12), (2.5, 12), (99.0, 5), (1.0, 3000)]
)
def test_the_schedule_is_optaxs(warmup_epochs, steps):
    recipe = Recipe(learning_rate=0.3, warmup_epochs=warmup_epochs)
    warmup = min(round(warmup_epochs * 4), steps - 1)
    expected = optax.warmup_cosine_decay_schedule(0.3 / (warmup + 1), 0.3, warmup, steps)
    rate_s = Schedule.of(recipe, steps, 4).rate_s
    np.testing.assert_allclose(rate_s[:steps], expected(np.arange(steps)), rtol=1e-4, atol=1e-8)
    assert not rate_s[steps:].any()
    assert len(rate_s) % 2048 == 0


def test_weight_decay_is_decoupled(make_run):
    run = make_run(weight_decay=0.5, warmup_epochs=0.0, learning_rate=1e-3)
    plain = make_run(weight_decay=0.0, warmup_epochs=0.0, learning_rate=1e-3)
    batch = next(run.batches())
    start = flat(run.state.params)
    decayed = flat(run.step(run.state, batch)[0].params)
    kept = flat(plain.step(plain.state, batch)[0].params)
    for path, x in start.items():
        np.testing.assert_allclose(kept[path] - decayed[path], 5e-4 * x, atol=1e-6)
