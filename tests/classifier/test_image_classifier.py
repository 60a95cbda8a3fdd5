"""From pixels to probabilities, and the temperature between logits and these.

Axes: n images, h and w cells, k classes.
"""

import numpy as np
import pytest
import scipy.special
from flax import nnx

from safe_jax import clip
from safe_jax.classifier import predict, temperature
from safe_jax.classifier.predict import Source
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests.clip.parity import call
from tests.fake_features import unit

pytestmark = pytest.mark.usefixtures("one_device")


def softmax(x_nk):
    power_nk = np.exp(x_nk - x_nk.max(1, keepdims=True))
    return power_nk / power_nk.sum(1, keepdims=True)


@pytest.mark.parametrize("name", METHODS)
def test_of_the_test_images_it_gives_the_rows_accuracy(every_method, kept, name):
    """Decoded and computed anew, where the row has the bank's maps."""
    trial = every_method.trial
    image_dir, records = trial.shared.data.image_dir, trial.subset.eval
    sources = [Source(record.path, image_dir / record.path) for record in records]
    batches = list(predict.score(kept[name], sources, len(sources), workers=2))
    assert [source for batch in batches for source in batch.sources] == sources
    logits_nk = np.concatenate([batch.logits_nk for batch in batches])
    right_n = logits_nk.argmax(1) == [record.label for record in records]
    assert 100 * right_n.sum() / len(right_n) == every_method.rows[name].accuracy
    view = trial.view(METHODS[name], "eval")
    of_bank_nk = trial.outcomes[name].classifier.logits_of(view, trial.shared.reader)
    np.testing.assert_allclose(logits_nk, of_bank_nk, atol=1e-3 * abs(of_bank_nk).max())


def test_probabilities_are_the_softmax_at_the_temperature(kept, pixels_bhwc):
    classifier = kept["tip_adapter"]
    assert classifier.temperature not in (1, *temperature.RANGE)
    logits_nk = np.asarray(classifier.logits(pixels_bhwc), np.float64)
    wanted_nk = softmax(logits_nk / classifier.temperature)
    np.testing.assert_allclose(classifier.probabilities(pixels_bhwc), wanted_nk, rtol=1e-4)
    scored = predict.Scored([], [], logits_nk, {})
    np.testing.assert_allclose(scored.probabilities(classifier.temperature), wanted_nk, rtol=1e-12)


def test_other_classes_are_told_apart_by_the_tuned_pool_and_their_prompts(
    every_method, kept, pixels_bhwc
):
    classifier, model = kept["safe"], every_method.trial.shared.model
    prompts = [["a mauve thing."], ["a teal thing.", "something teal."]]
    among = classifier.among(["mauve", "teal"], prompts)
    assert (among.classes, among.prompts) == (("mauve", "teal"), prompts)
    assert among.temperature == classifier.temperature
    tokens = clip.tokenize([*prompts[0], *prompts[1]])
    sentence_nd = unit(np.asarray(call(model, "encode_text", tokens)))
    text_kd = unit(np.stack([sentence_nd[0], sentence_nd[1:].mean(0)]))
    dense_bhwc, original_bd = classifier.maps(pixels_bhwc)
    inner = classifier.classifier
    pool = nnx.merge(inner.method.graphdef, inner.params["attnpool"])
    tuned_bd = call(pool, "__call__", dense_bhwc)
    alpha = inner.point["alpha"]
    assert 0 < alpha < 1
    feature_bd = unit(alpha * np.asarray(tuned_bd) + (1 - alpha) * np.asarray(original_bd))
    wanted_bk = np.exp(float(model.logit_scale[...])) * feature_bd @ text_kd.T
    found_bk = np.asarray(among.logits(pixels_bhwc))
    np.testing.assert_allclose(found_bk, wanted_bk, atol=1e-4 * abs(wanted_bk).max())


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_learn_something_of_each_class_have_no_others(kept, pixels_bhwc, name):
    classifier = kept[name]
    if METHODS[name].open_classes:
        again = classifier.among(classifier.classes, classifier.prompts)
        found_bk, logits_bk = again.logits(pixels_bhwc), classifier.logits(pixels_bhwc)
        np.testing.assert_allclose(found_bk, logits_bk, atol=1e-5 * abs(logits_bk).max())
        return
    fitting = "zero_shot, safe, clip_adapter, prolip"
    with pytest.raises(InputError, match=f"learns something of each class .*fit one of {fitting}"):
        classifier.among(["mauve"], [["a mauve thing."]])


@pytest.mark.parametrize("name", METHODS)
def test_attention_sums_to_1_and_is_of_the_pools_that_there_are(kept, pixels_bhwc, name):
    classifier = kept[name]
    dense_bhwc, _ = classifier.maps(pixels_bhwc)
    attention = classifier.attention(dense_bhwc)
    has_tuned_pool = name in ("safe", "safe_a", "safe_a_f", "partial")
    assert list(attention) == (["original", "tuned"] if has_tuned_pool else ["original"])
    assert classifier.has_tuned_pool == has_tuned_pool
    for map_bhw in attention.values():
        assert map_bhw.shape == dense_bhwc.shape[:3]
        assert (map_bhw >= 0).all()
        np.testing.assert_allclose(map_bhw.sum((1, 2)), 1, rtol=1e-5)
    if has_tuned_pool and name != "partial":  # whose steps are tiny
        assert abs(attention["tuned"] - attention["original"]).max() > 1e-3


@pytest.fixture(scope="module")
def logits_nk():
    """Logits of 300 images, four times too sure; the labels are `LABEL_N`."""
    random = np.random.default_rng(0)
    honest_nk = random.normal(size=(300, 5)) + 1.5 * np.eye(5)[LABEL_N]
    return (4 * honest_nk).astype(np.float32)


LABEL_N = np.arange(300) % 5


def cross_entropy(logits_nk, label_n, t, right=1.0):
    """The mean over images, where the right class is expected with probability `right`."""
    log_p_nk = scipy.special.log_softmax(logits_nk.astype(np.float64) / t, axis=1)
    wanted_nk = np.full(log_p_nk.shape, (1 - right) / (log_p_nk.shape[1] - 1))
    wanted_nk[np.arange(len(label_n)), label_n] = right
    return -(wanted_nk * log_p_nk).sum(1).mean()


def test_the_temperature_is_the_best_of_a_fine_grid(logits_nk):
    grid = np.exp(np.linspace(*np.log(temperature.RANGE), 3000))
    losses = [cross_entropy(logits_nk, LABEL_N, t, right=301 / 302) for t in grid]
    found = temperature.choose(logits_nk, LABEL_N)
    assert found == pytest.approx(grid[np.argmin(losses)], rel=3e-3)
    assert temperature.choose(2 * logits_nk, LABEL_N) == pytest.approx(2 * found, rel=1e-3)


def test_the_temperature_lowers_the_cross_entropy_on_its_images(logits_nk):
    found = temperature.choose(logits_nk, LABEL_N)
    before = cross_entropy(logits_nk, LABEL_N, 1)
    assert cross_entropy(logits_nk, LABEL_N, found) < 0.7 * before


def test_the_kept_temperature_is_that_of_the_validation_images(every_method, kept):
    trial = every_method.trial
    for name in ("tip_adapter", "safe_a"):
        view = trial.view(METHODS[name], "val")
        logits_nk = trial.outcomes[name].classifier.logits_of(view, trial.shared.reader)
        found = kept[name].temperature
        right = (len(view) + 1) / (len(view) + 2)
        best = cross_entropy(logits_nk, view.labels, found, right)
        for other in (0.9 * found, 1.1 * found):
            assert best < cross_entropy(logits_nk, view.labels, other, right)


@pytest.mark.parametrize("count", [2, 8, 100])
def test_images_that_are_all_right_do_not_drive_it_to_its_bound(count):
    """The mean probability of the right class becomes (n + 1) / (n + 2)."""
    label_n = np.arange(count) % 2
    logits_nk = 10.0 * np.eye(2)[label_n]
    found = temperature.choose(logits_nk, label_n)
    low, high = temperature.RANGE
    assert 2 * low < found < high / 2
    probability_n = softmax(logits_nk / found)[np.arange(count), label_n]
    np.testing.assert_allclose(probability_n, (count + 1) / (count + 2), rtol=1e-3)


def test_logits_that_know_nothing_are_flattened_to_the_bound():
    logits_nk = 100 * np.random.default_rng(0).normal(size=(40, 4))
    wrong_n = logits_nk.argmin(1)
    assert temperature.choose(logits_nk, wrong_n) == pytest.approx(temperature.RANGE[1], rel=1e-3)
