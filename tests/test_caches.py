"""Tip-Adapter, Tip-Adapter-F and SAFE-A against their formulas, computed a second time in NumPy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from safe_jax.classifier import selection
from safe_jax.experiment import knobs
from safe_jax.methods import cache, safe
from safe_jax.methods import safe_a as safe_a_module
from safe_jax.methods.safe_a import SafeA
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.runtime import devices
from safe_jax.tuning import train
from tests import tiny
from tests.fake_features import CLASSES, CONFIG, COUNT, batch_of, unit


def numpy_cache(feature, keys, key_label, a, b):
    """The authors' formula as it stands, with one-hot values."""
    return a * np.exp(-b * (1 - feature @ keys.T)) @ np.eye(CLASSES)[key_label]


def numpy_tip_adapter(data, scale, a, b, keys=None):
    feature = unit(data.original.astype(np.float64))
    keys = unit(data.support.astype(np.float64).mean(1)) if keys is None else keys
    return scale * feature @ data.text.T + numpy_cache(feature, keys, data.support_label, a, b)


def numpy_loss(logits, label):
    shifted = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(label)), label]


def tip(model, data, config=CONFIG):
    return TipAdapter.init(model, jnp.asarray(data.text), data.support, data.support_label, config)


def test_tip_adapter_is_what_its_formula_says(model, scale, data):
    method, params, context = tip(model, data)
    at_b = method.logits(params, context, batch_of(data))
    for b, a in ((0.1, 4.0), (1.0, 1.0), (11.0, 0.3)):
        wanted = numpy_tip_adapter(data, scale, a, b)
        np.testing.assert_allclose(at_b(b)(a), wanted, rtol=1e-4, atol=1e-4)


def test_the_grid_is_the_authors_and_has_numpys_winner(model, scale, data):
    grid = cache.grid(CONFIG)
    wanted = {
        "b": [i * (12 - 0.1) / 9 + 0.1 for i in range(9)],
        "a": [i * (5 - 0.1) / 7 + 0.1 for i in range(7)],
    }
    assert list(grid) == ["b", "a"]
    for name, values in wanted.items():
        np.testing.assert_allclose(grid[name], values)
    assert cache.grid(tiny.freeze(CONFIG, selection="fixed")) == {"b": [1.5], "a": [2.0]}

    params, tuning = train.as_is(*tip(model, data), devices.make_mesh(jax.devices()[:1]))
    accuracy, loss = train.evaluate(params, tuning, grid, [batch_of(data)])
    expected = np.array(
        [[numpy_tip_adapter(data, scale, a, b) for a in grid["a"]] for b in grid["b"]]
    )
    right = 100 * (expected.argmax(-1) == data.label).mean(-1)
    np.testing.assert_allclose(accuracy, right)
    assert len(set(right.ravel())) > 2  # there is something to choose
    losses = np.array([[numpy_loss(x, data.label).mean() for x in row] for row in expected])
    np.testing.assert_allclose(loss, losses, rtol=1e-4)
    assert selection.best_index(accuracy, loss) == selection.best_index(right, losses)


def test_tip_adapter_f_is_numpys_adamw_on_the_keys(model, scale, data):
    config = knobs.of(knobs.resolve(default.get_config()), "tip_adapter_f")
    config = tiny.freeze(config, a=2.0, b=1.5)
    method, params, context = tip(model, data, config)
    slots = cache.Slots.of(data.support_label, CLASSES)
    where = {image: slot for slot, image in np.ndenumerate(slots.image_ks) if slots.filled_ks[slot]}
    mesh = devices.make_mesh(jax.devices()[:1])
    plan = types.SimpleNamespace(steps=6, steps_per_epoch=1)
    state, tuning = train.init(method, params, context, config, plan, mesh)

    feature = unit(data.original.astype(np.float64))
    keys = unit(data.support.astype(np.float64).mean(1))
    values = np.eye(CLASSES)[data.support_label]
    first, second = np.zeros_like(keys), np.zeros_like(keys)
    for step in range(6):
        state, loss = tuning.step(state, batch_of(data))
        logits = numpy_tip_adapter(data, scale, 2.0, 1.5, keys)
        np.testing.assert_allclose(loss, numpy_loss(logits, data.label).mean(), rtol=1e-4)
        wrong = np.exp(logits - logits.max(1, keepdims=True))
        wrong = wrong / wrong.sum(1, keepdims=True) - np.eye(CLASSES)[data.label]
        affinity = np.exp(-1.5 * (1 - feature @ keys.T))
        grad = (2.0 * 1.5 * affinity * (wrong @ values.T) / COUNT).T @ feature
        rate = 1e-3 * (1 + np.cos(np.pi * step / 6)) / 2
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        ahead = first / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(second / (1 - 0.999 ** (step + 1)))
        keys = keys - rate * (ahead / (spread + 1e-4) + 0.01 * keys)
    found = np.stack([state.params["keys"][where[n]] for n in range(len(keys))])
    np.testing.assert_allclose(found, keys, atol=1e-5)
    np.testing.assert_allclose(
        method.logits(state.params, context, batch_of(data))(3.0)(4.0),
        numpy_tip_adapter(data, scale, 4.0, 3.0, keys),
        rtol=1e-4,
        atol=1e-4,
    )


def safe_a(model, data, config=CONFIG):
    return SafeA.init(
        model, jnp.asarray(data.text), data.support_tuned, data.support, data.support_label, config
    )


@pytest.mark.parametrize("blend", safe.BLENDS)
def test_safe_a_is_safe_and_a_cache_of_its_features(model, scale, data, blend):
    method, params, context = safe_a(model, data, tiny.freeze(CONFIG, blend=blend))
    for alpha in (0.0, 0.3, 1.0):
        at_b = method.logits(params, context, batch_of(data))(alpha)
        alone = safe.blended_logits(data.tuned, data.original, data.text, scale, alpha, blend)
        np.testing.assert_allclose(at_b(2.0)(0.0), alone, rtol=1e-5, atol=1e-5)

        def blended(tuned, original, alpha=alpha):
            if blend != "feature":
                tuned, original = unit(tuned), unit(original)
            return unit(alpha * tuned + (1 - alpha) * original)

        keys = blended(data.support_tuned.mean(1), data.support.mean(1))
        wanted = numpy_cache(
            blended(data.tuned, data.original), keys, data.support_label, a=3.0, b=2.0
        )
        np.testing.assert_allclose(at_b(2.0)(3.0), alone + wanted, rtol=1e-4, atol=1e-4)

        keyed, keyed_context = method.with_keys(params, context, alpha)
        again = method.logits(keyed, keyed_context, batch_of(data))(alpha)(2.0)(3.0)
        np.testing.assert_allclose(again, alone + wanted, rtol=1e-4, atol=1e-4)


def test_safe_a_on_the_original_pool_alone_is_tip_adapter(model, data):
    axes = safe_a_module.grid(CONFIG)
    assert [(name, len(values)) for name, values in axes.items()] == [
        ("alpha", 5), ("b", 9), ("a", 7),
    ]  # fmt: skip
    mesh = devices.make_mesh(jax.devices()[:1])
    params, tuning = train.as_is(*safe_a(model, data), mesh)
    accuracy, loss = train.evaluate(params, tuning, axes, [batch_of(data)])
    params, tuning = train.as_is(*tip(model, data), mesh)
    wanted, wanted_loss = train.evaluate(params, tuning, cache.grid(CONFIG), [batch_of(data)])
    np.testing.assert_array_equal(accuracy[0], wanted)
    np.testing.assert_allclose(loss[0], wanted_loss, rtol=1e-5)
    assert not np.array_equal(accuracy[-1], wanted)


def test_the_order_of_support_images_does_not_matter(model, data):
    order = np.random.default_rng(1).permutation(len(data.support_label))
    other = types.SimpleNamespace(**vars(data))
    for name in ("support", "support_tuned", "support_label"):
        setattr(other, name, getattr(data, name)[order])
    for make, point in ((tip, (2.0, 3.0)), (safe_a, (0.3, 2.0, 3.0))):
        found = []
        for these in (data, other):
            method, params, context = make(model, these)
            logits = method.logits(params, context, batch_of(data))
            for value in point:
                logits = logits(value)
            found.append(logits)
        np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)
