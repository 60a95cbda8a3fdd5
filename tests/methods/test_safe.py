"""SAFE: what its blends are, and what tuning through one does."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from safe_jax.methods import safe
from safe_jax.methods.text_head import unit
from safe_jax.tuning import fit
from tests.fake_features import zero_shot_accuracy
from tests.safe_run import LABELS


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
        found = 7 * safe.blended_features(tuned, original, 0.3, blend) @ text.T
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="blend must be one of"):
        safe.blended_features(tuned, original, 0.3, "features")


@pytest.mark.parametrize("blend", safe.BLENDS)
def test_blend_0_is_zero_shot_and_1_the_tuned_pool(
    model, text_kd, maps_view, make_run, tmp_path, blend
):
    run = make_run(blend=blend, learning_rate=2e-3, epochs=20)
    tuned = run.fit(tmp_path / "run")
    accuracy_a, loss_a = run.evaluate(tuned, maps_view, [0.0, 1.0])
    dense, original = maps_view.arrays["dense_bhwc"], maps_view.arrays["original_bd"]
    assert accuracy_a[0] == zero_shot_accuracy(original, text_kd, LABELS)

    pool = nnx.merge(tuned.method.graphdef, tuned.params["attnpool"])
    features = jax.jit(lambda pool, x: pool(x))(pool, dense)
    assert accuracy_a[1] == zero_shot_accuracy(features, text_kd, LABELS)
    assert accuracy_a[1] > accuracy_a[0] + 20
    scale = np.exp(model.logit_scale[...])
    for features_nd, loss in zip((original, features), loss_a, strict=True):
        logits = scale * unit(features_nd) @ text_kd.T
        wanted = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_an_untuned_pool_blends_to_itself(make_run, maps_view, text_kd):
    run = make_run()
    accuracy_a, loss_a = run.evaluate(
        fit.untuned(run.start, run.mesh), maps_view, np.linspace(0, 1, 5)
    )
    assert set(accuracy_a) == {zero_shot_accuracy(maps_view.arrays["original_bd"], text_kd, LABELS)}
    np.testing.assert_allclose(loss_a, loss_a[0], rtol=1e-5)


def test_tuning_through_a_blend_counts_the_original(make_run):
    batch = next(make_run().batches())
    _, alone = make_run().step(make_run().state, batch)
    changed = batch | {"original_bd": batch["original_bd"][::-1]}
    run = make_run(train_alpha=0.5)
    losses = [float(run.step(make_run(train_alpha=0.5).state, b)[1]) for b in (batch, changed)]
    assert losses[0] == pytest.approx(float(alone), rel=1e-5)  # at the start both pools are one
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)
