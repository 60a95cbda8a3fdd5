"""Tip-Adapter, Tip-Adapter-F and SAFE-A against their formulas, computed a second time in NumPy."""

import types

import jax
import numpy as np
import pytest

from configs import default
from safe_jax.classifier.choose import best_index
from safe_jax.classifier.evaluate import Reader, evaluate
from safe_jax.experiment import knobs
from safe_jax.methods import safe
from safe_jax.methods.cache import Slots, cache_grid
from safe_jax.methods.safe_a import SafeA
from safe_jax.methods.safe_a_f import SafeAF
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.methods.tip_adapter_f import TipAdapterF
from safe_jax.runtime import devices
from safe_jax.tuning import fit
from tests.fake_features import CLASSES, COUNT, SETTINGS, batch_of, setting, unit, view_of
from tests.stand_ins import Earlier


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


def tip_adapter(model, data):
    return TipAdapter.start(setting(model, data), SETTINGS)


def safe_a(model, data):
    return SafeA.start(setting(model, data), SETTINGS)


def measure(start, grid, data):
    """Accuracy and loss over a grid, on one device."""
    reader = Reader(devices.make_mesh(jax.devices()[:1]), COUNT)
    return evaluate(*start, grid, view_of(data), reader)


def test_tip_adapter_is_its_formula(model, scale, data):
    method, params, context = tip_adapter(model, data)
    at_b = method.logits(params, context, batch_of(data))
    for b, a in ((0.1, 4.0), (1.0, 1.0), (11.0, 0.3)):
        wanted = numpy_tip_adapter(data, scale, a, b)
        np.testing.assert_allclose(at_b(b)(a), wanted, rtol=1e-4, atol=1e-4)


def test_the_grid_is_the_authors_and_has_numpys_winner(model, scale, data):
    grid = cache_grid(SETTINGS)
    wanted = {
        "b": [i * (12 - 0.1) / 9 + 0.1 for i in range(9)],
        "a": [i * (5 - 0.1) / 7 + 0.1 for i in range(7)],
    }
    assert list(grid) == ["b", "a"]
    for name, values in wanted.items():
        np.testing.assert_allclose(grid[name], values)
    assert cache_grid(SETTINGS.model_copy(update={"selection": "fixed"})) == {
        "b": [1.5],
        "a": [2.0],
    }

    accuracy, loss = measure(tip_adapter(model, data), grid, data)
    expected = np.array(
        [[numpy_tip_adapter(data, scale, a, b) for a in grid["a"]] for b in grid["b"]]
    )
    numpy_accuracy = 100 * (expected.argmax(-1) == data.label).mean(-1)
    np.testing.assert_allclose(accuracy, numpy_accuracy)
    assert len(set(numpy_accuracy.ravel())) > 2  # there is something to choose
    losses = np.array([[numpy_loss(x, data.label).mean() for x in row] for row in expected])
    np.testing.assert_allclose(loss, losses, rtol=1e-4)
    assert best_index(accuracy, loss) == best_index(numpy_accuracy, losses)


def test_few_classes_have_a_slot_for_every_shot_that_there_may_be():
    """So that what is compiled for 16 shots serves 1; a thousand classes have no slot to spare."""

    def slots(classes, shots):
        filled_ks = Slots.of(np.repeat(np.arange(classes), shots), classes).filled_ks
        assert (filled_ks.sum(1) == shots).all()
        return filled_ks.shape[1]

    assert [slots(10, shots) for shots in (1, 16, 20)] == [16, 16, 20]
    assert [slots(1000, shots) for shots in (1, 2, 16)] == [4, 4, 16]
    assert slots(5000, 1) == 1


def test_tip_adapter_f_is_numpys_adamw_on_the_keys(model, scale, data):
    (recipe,) = knobs.recipes(knobs.read(default.get_config()), "tip_adapter_f")
    start = TipAdapterF.start(setting(model, data), SETTINGS)
    slots = Slots.of(data.support_label, CLASSES)
    slot_of = {
        image: slot for slot, image in np.ndenumerate(slots.image_ks) if slots.filled_ks[slot]
    }
    mesh = devices.make_mesh(jax.devices()[:1])
    plan = types.SimpleNamespace(steps=6, steps_per_epoch=1)
    state, stepper = fit.start_steps(start, recipe, plan, mesh)

    feature = unit(data.original.astype(np.float64))
    keys = unit(data.support.astype(np.float64).mean(1))
    values = np.eye(CLASSES)[data.support_label]
    first, second = np.zeros_like(keys), np.zeros_like(keys)
    for step in range(6):
        state, loss = stepper.step(state, batch_of(data))
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
    tuned_keys = np.stack([state.params["keys"][slot_of[n]] for n in range(len(keys))])
    np.testing.assert_allclose(tuned_keys, keys, atol=1e-5)
    np.testing.assert_allclose(
        start.method.logits(state.params, start.context, batch_of(data))(3.0)(4.0),
        numpy_tip_adapter(data, scale, 4.0, 3.0, keys),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("blend", safe.BLENDS)
def test_safe_a_is_safe_and_a_cache_of_its_features(model, scale, data, blend):
    settings = SETTINGS.model_copy(update={"blend": blend})
    method, params, context = SafeA.start(setting(model, data), settings)
    for alpha in (0.0, 0.3, 1.0):
        at_b = method.logits(params, context, batch_of(data))(alpha)
        feature_bd = safe.blended_features(data.tuned, data.original, alpha, blend)
        safe_alone = scale * feature_bd @ data.text.T
        np.testing.assert_allclose(at_b(2.0)(0.0), safe_alone, rtol=1e-5, atol=1e-5)

        def blended(tuned, original, alpha=alpha):
            if blend != "feature":
                tuned, original = unit(tuned), unit(original)
            return unit(alpha * tuned + (1 - alpha) * original)

        keys = blended(data.support_tuned.mean(1), data.support.mean(1))
        cache = numpy_cache(
            blended(data.tuned, data.original), keys, data.support_label, a=3.0, b=2.0
        )
        np.testing.assert_allclose(at_b(2.0)(3.0), safe_alone + cache, rtol=1e-4, atol=1e-4)

        # Before its first step SAFE-A with tuned keys is SAFE-A at the alpha that SAFE-A chose.
        earlier = {"safe_a": Earlier(point={"alpha": alpha})}
        with_keys = SafeAF.start(setting(model, data, earlier=earlier), settings)
        logits = with_keys.method.logits(with_keys.params, with_keys.context, batch_of(data))
        np.testing.assert_allclose(
            logits(alpha)(2.0)(3.0), safe_alone + cache, rtol=1e-4, atol=1e-4
        )
        assert SafeAF.grid(settings, earlier)["alpha"] == [alpha]
        assert with_keys.context.alpha == np.float32(alpha)


def test_safe_a_on_the_original_pool_alone_is_tip_adapter(model, data):
    grid = SafeA.grid(SETTINGS, {})
    assert [(name, len(values)) for name, values in grid.items()] == [
        ("alpha", 5), ("b", 9), ("a", 7),
    ]  # fmt: skip
    accuracy, loss = measure(safe_a(model, data), grid, data)
    wanted, wanted_loss = measure(tip_adapter(model, data), cache_grid(SETTINGS), data)
    np.testing.assert_array_equal(accuracy[0], wanted)
    np.testing.assert_allclose(loss[0], wanted_loss, rtol=1e-5)
    assert not np.array_equal(accuracy[-1], wanted)


def test_the_order_of_support_images_does_not_matter(model, data):
    order = np.random.default_rng(1).permutation(len(data.support_label))
    shuffled = types.SimpleNamespace(**vars(data))
    for name in ("support", "support_tuned", "support_label"):
        setattr(shuffled, name, getattr(data, name)[order])
    for make, point in ((tip_adapter, (2.0, 3.0)), (safe_a, (0.3, 2.0, 3.0))):
        both = []
        for support in (data, shuffled):
            method, params, context = make(model, support)
            logits = method.logits(params, context, batch_of(data))
            for value in point:
                logits = logits(value)
            both.append(logits)
        np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-5)
