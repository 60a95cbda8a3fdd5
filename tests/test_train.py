"""Steps, selection, and the loop."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from safe_jax.bank import batches, store
from safe_jax.data import datasets
from safe_jax.methods import safe, zero_shot
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import loop, train
from tests import tiny
from tests.fake_features import zero_shot_accuracy

CLASSES = 4


@pytest.fixture(scope="module")
def text_kd(model):
    return zero_shot.text_classifier(model, [[f"a photo of a {c} thing."] for c in tiny.COLOURS])


@pytest.fixture(scope="module")
def bank(model):
    """Random maps in place of images, and what the pool makes of them."""
    dense = np.random.default_rng(0).exponential(size=(20, *model.config.dense_shape))
    dense = dense.astype(np.float16)
    return store.Bank(dense, np.asarray(model.attnpool(dense)), views=1)


LABELS = np.arange(20) % CLASSES


class Run:
    """A tuning of 20 maps in batches of 8: three steps an epoch."""

    def __init__(self, model, text_kd, bank, tiny_config, devices=1, **knobs):
        self.model = model
        self.config = tiny.freeze(tiny_config, **knobs)
        self.mesh = devices.make_mesh(jax.devices()[:devices])
        self.bank = bank
        self.plan = batches.plan(20, 1, 8, self.config.epochs, seed=3, multiple_of=devices)
        self.method, params, classifier = safe.Safe.init(model, text_kd, self.config)
        self.state, self.tuning = train.init(
            self.method, params, classifier, self.config, self.plan, self.mesh
        )

    def batches(self, first_step=0):
        if self.config.features == "online":
            data = datasets.load(self.config)
            return batches.online(
                self.model, data.image_dir, data.splits.train[::2], self.plan, 3, self.config,
                self.mesh, first_step,
            )  # fmt: skip
        return batches.from_bank(self.bank, np.arange(20), LABELS, self.plan, self.mesh, first_step)

    def step(self, state, batch):
        return self.tuning.step(state, batch)

    def fit(self, folder, batches_from=None):
        return loop.fit(
            self.state, self.tuning, self.plan.steps, batches_from or self.batches, folder,
            self.config.checkpoint_every,
        )  # fmt: skip

    def evaluate(self, state, alphas):
        in_order = batches.in_order(self.bank, np.arange(20), LABELS, 8, self.mesh)
        return train.evaluate(state.params, self.tuning, {"alpha": np.asarray(alphas)}, in_order)


@pytest.fixture
def make(model, text_kd, bank, tiny_config):
    def make(**knobs):
        return Run(model, text_kd, bank, tiny_config, **knobs)

    return make


def flat(tree):
    return {
        path: np.asarray(x)
        for path, x in traverse_util.flatten_dict(tree, sep="/").items()
        if not isinstance(x, optax.MaskedNode)
    }


TRAINABLE = "attnpool/c_proj/.*|.*positional_embedding"


@pytest.fixture
def model_with_minus_zeros(model):
    """Zeros of a sign that adding 0.0 to them would change."""
    model = nnx.clone(model)
    model.attnpool.k_proj.kernel[...] = model.attnpool.k_proj.kernel[...].at[0, 0, :5].set(-0.0)
    return model


def test_frozen_leaves_stay_bit_identical(model_with_minus_zeros, text_kd, bank, tiny_config):
    model = model_with_minus_zeros
    before = {
        path: x.tobytes() for path, x in flat(nnx.to_pure_dict(nnx.state(model.attnpool))).items()
    }
    run = Run(model, text_kd, bank, tiny_config, trainable=TRAINABLE)
    state = run.state
    for batch in run.batches():
        state, _ = run.step(state, batch)
    after = flat(train.join_params(state.params, run.tuning.frozen.params)["attnpool"])
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


def test_optimizer_state_is_for_trained_leaves_alone(make):
    run = make(trainable="attnpool/c_proj/kernel")
    sizes = sorted(x.size for x in jax.tree.leaves(run.state.opt_state))
    # Two counts, rate and decay, two moments.
    assert sizes == [1, 1, 1, 1, 256 * 32, 256 * 32]
    assert len(jax.tree.leaves(run.state.params)) == 1


def test_pattern_without_match_raises(make):
    with pytest.raises(InputError, match=r"matches no parameter; choose from:\n  attnpool/"):
        make(trainable="attnpool/c_proj")


@pytest.mark.parametrize("blend", safe.BLENDS)
def test_blend_0_is_zero_shot_and_1_the_tuned_pool(model, text_kd, bank, make, tmp_path, blend):
    run = make(blend=blend, learning_rate=2e-3, epochs=20)
    state, _ = run.fit(tmp_path / "run")
    accuracy_a, loss_a = run.evaluate(state, [0.0, 1.0])
    assert accuracy_a[0] == zero_shot_accuracy(bank.pooled, text_kd, LABELS)

    params = train.join_params(state.params, run.tuning.frozen.params)
    pool = nnx.merge(run.method.graphdef, params["attnpool"])
    tuned = jax.jit(lambda pool, x: pool(x))(pool, bank.dense)
    assert accuracy_a[1] == zero_shot_accuracy(tuned, text_kd, LABELS)
    assert accuracy_a[1] > accuracy_a[0] + 20
    scale = np.exp(model.logit_scale[...])
    for features_nd, loss in zip((bank.pooled, tuned), loss_a, strict=True):
        logits = scale * zero_shot.unit(features_nd) @ text_kd.T
        wanted = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_an_untuned_pool_blends_to_itself(make, bank, text_kd):
    run = make()
    accuracy_a, loss_a = run.evaluate(run.state, np.linspace(0, 1, 5))
    assert set(accuracy_a) == {zero_shot_accuracy(bank.pooled, text_kd, LABELS)}
    np.testing.assert_allclose(loss_a, loss_a[0], rtol=1e-5)


def test_blends_are_what_their_formulas_say():
    rng = np.random.default_rng(0)
    tuned, original, text = (rng.normal(size=s) for s in ((5, 8), (5, 8), (3, 8)))
    text = text / np.linalg.norm(text, axis=1, keepdims=True)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    wanted = {
        "feature": 7 * unit(0.3 * tuned + 0.7 * original) @ text.T,
        "unit": 7 * unit(0.3 * unit(tuned) + 0.7 * unit(original)) @ text.T,
        "logit": 0.3 * 7 * unit(tuned) @ text.T + 0.7 * 7 * unit(original) @ text.T,
    }
    for blend, logits in wanted.items():
        found = safe.blended_logits(tuned, original, text, 7.0, 0.3, blend)
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="blend must be one of"):
        safe.blended_logits(tuned, original, text, 7.0, 0.3, "features")


def test_tuning_through_a_blend_counts_the_original(make):
    batch = next(make().batches())
    _, alone = make().step(make().state, batch)
    changed = batch | {"original_bd": batch["original_bd"][::-1]}
    run = make(train_alpha=0.5)
    losses = [float(run.step(make(train_alpha=0.5).state, b)[1]) for b in (batch, changed)]
    assert losses[0] == pytest.approx(float(alone), rel=1e-5)  # at the start both pools are one
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


def test_rows_that_fill_a_batch_up_and_their_order_do_not_count(make):
    run = make()
    batch = list(run.batches())[2]  # four rows of eight
    np.testing.assert_array_equal(batch["mask_b"], [1, 1, 1, 1, 0, 0, 0, 0])
    _, loss = run.step(make().state, batch)
    order = np.array([6, 3, 1, 0, 2, 7, 5, 4])
    other = {k: jnp.asarray(np.asarray(x)[order]) for k, x in batch.items()}
    other["dense_bhwc"] = other["dense_bhwc"].at[0].set(1.0)  # a row that does not count
    _, again = run.step(make().state, other)
    np.testing.assert_allclose(again, loss, rtol=1e-6)


def test_one_and_eight_devices_give_the_same_losses(make, tmp_path):
    one, eight = make(), make(devices=8)
    state_one, losses_one = one.fit(tmp_path / "one")
    state_eight, losses_eight = eight.fit(tmp_path / "eight")
    np.testing.assert_allclose(losses_eight, losses_one, rtol=1e-5)
    assert jax.tree.leaves(state_eight.params)[0].sharding.num_devices == 8
    alphas = np.linspace(0, 1, 5)
    (right_one, loss_one), (right_eight, loss_eight) = (
        one.evaluate(state_one, alphas),
        eight.evaluate(state_eight, alphas),
    )
    np.testing.assert_array_equal(right_eight, right_one)
    np.testing.assert_allclose(loss_eight, loss_one, rtol=1e-5)


@pytest.mark.parametrize("features_knob", ["bank", "online"])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(make, tmp_path, features_knob):
    state, losses = make(features=features_knob).fit(tmp_path / "whole")

    run = make(features=features_knob, checkpoint_every=2)

    def dying(first_step):
        for step, batch in enumerate(run.batches(first_step), first_step):
            if step == 5:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path / "cut", dying)
    again = make(features=features_knob, checkpoint_every=2)
    firsts = []

    def noting(first_step):
        firsts.append(first_step)
        return again.batches(first_step)

    resumed, resumed_losses = again.fit(tmp_path / "cut", noting)
    assert firsts == [4]
    np.testing.assert_array_equal(resumed_losses, losses)
    for path, x in flat(state.params).items():
        assert flat(resumed.params)[path].tobytes() == x.tobytes(), path


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(make, tmp_path):
    run = make()

    def poisoned(first_step):
        for step, batch in enumerate(run.batches(first_step)):
            if step == 3:
                batch["original_bd"] = batch["original_bd"] * jnp.nan
            yield batch

    with pytest.raises(InputError, match="the loss is nan at step 4: lower"):
        run.fit(tmp_path / "run", poisoned)


def test_rate_climbs_then_falls_to_zero():
    """Read off AdamW's own steps: with a constant gradient of one leaf each is the rate."""
    config = tiny.freeze(
        {}, trainable=".*", learning_rate=0.5, warmup_epochs=1.0, b1=0.9, b2=0.999, eps=1e-8,
        weight_decay=0.0,
    )  # fmt: skip

    class Linear:
        def loss(self, params, context, batch):
            return params["c_proj"]

    plan = types.SimpleNamespace(steps=12, steps_per_epoch=4)
    mesh = devices.make_mesh(jax.devices()[:1])
    state, tuning = train.init(Linear(), {"c_proj": jnp.zeros(1)}, None, config, plan, mesh)
    at = [0.0]
    for _ in range(12):
        state, _ = tuning.step(state, {"mask_b": jnp.ones(1)})
        at.append(float(state.params["c_proj"][0]))
    rates = -np.diff(at)
    cosine = [0.25 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, *cosine], rtol=1e-3, atol=1e-6)


def test_weight_decay_is_decoupled(make):
    run = make(weight_decay=0.5, warmup_epochs=0.0, learning_rate=1e-3)
    plain = make(weight_decay=0.0, warmup_epochs=0.0, learning_rate=1e-3)
    batch = next(run.batches())
    start = flat(run.state.params)
    decayed = flat(run.step(run.state, batch)[0].params)
    kept = flat(plain.step(plain.state, batch)[0].params)
    for path, x in start.items():
        np.testing.assert_allclose(kept[path] - decayed[path], 5e-4 * x, atol=1e-6)
