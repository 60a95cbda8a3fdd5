"""A run's classifiers: the number in a row is the accuracy of its classifier."""

import dataclasses

import numpy as np
import pytest

from safe_jax.methods.catalogue import METHODS
from safe_jax.tuning.loop import DivergedError


@pytest.fixture(params=METHODS)
def classified(request, every_method):
    """A method's row and classifier, the images that both are of, and how these are read."""
    trial, name = every_method.trial, request.param
    view = trial.view(METHODS[name], "eval")
    return every_method.rows[name], trial.outcomes[name].classifier, view, trial.shared.reader


def test_the_number_in_a_row_is_the_accuracy_of_its_classifier(classified):
    row, classifier, view, reader = classified
    assert row.accuracy == classifier.evaluate(view, reader)
    right = 0
    for batch in reader.batches(view):
        logits_bk = np.asarray(classifier.logits(batch))
        is_image_b = np.asarray(batch["mask_b"]) > 0
        right += (logits_bk.argmax(1) == np.asarray(batch["label_b"]))[is_image_b].sum()
    assert row.accuracy == 100 * right / len(view)


def test_probabilities_sum_to_1_and_have_the_same_answers(classified):
    row, classifier, view, reader = classified
    probability_nk = classifier.probabilities(view, reader)
    assert probability_nk.shape == (len(view), len(classifier.classes))
    assert (probability_nk >= 0).all()
    np.testing.assert_allclose(probability_nk.sum(1), 1, rtol=1e-5)
    right = (probability_nk.argmax(1) == view.label_n).sum()
    assert row.accuracy == 100 * right / len(view)


def test_a_classifier_says_what_it_is_and_where_it_comes_from(classified, every_method):
    row, classifier, _, _ = classified
    assert classifier.name == row.method
    assert isinstance(classifier.method, METHODS[row.method])
    assert classifier.classes == ("red", "green", "blue", "dark grey")
    origin = classifier.origin
    for field in origin._fields:
        assert getattr(origin, field) == getattr(row, field)
    point = {axis: getattr(row, axis) for axis in ("alpha", "a", "b")}
    assert dict(classifier.point) == {axis: x for axis, x in point.items() if x is not None}
    assert row.point == {}


def test_parameters_that_diverged_are_refused(every_method):
    trial = every_method.trial
    classifier = trial.outcomes["linear_probe"].classifier
    classifier = dataclasses.replace(
        classifier, params={"classifier": classifier.params["classifier"].at[0, 0].set(np.nan)}
    )
    view = trial.view(METHODS["linear_probe"], "eval")
    with pytest.raises(DivergedError, match="give no finite logits: lower the learning rate"):
        classifier.evaluate(view, trial.shared.reader)
