"""What validation images choose: the best candidate, at the best point of its grid."""

import types

import numpy as np
import pytest

from safe_jax.classifier import choose as choose_module
from safe_jax.classifier.choose import best_index, choose
from safe_jax.classifier.evaluate import Measured
from safe_jax.tuning.loop import DivergedError

GRID = {"alpha": np.array([0.0, 0.5, 1.0])}


def test_best_takes_the_highest_accuracy_then_the_lowest_loss():
    assert best_index(np.array([50.0, 60, 60, 60]), np.array([0.1, 0.9, 0.7, 0.8])) == (2,)
    accuracy = np.array([[50.0, 60, 40], [60, 10, 60]])
    loss = np.array([[0.1, 0.9, 0.1], [0.8, 0.1, 0.7]])
    assert best_index(accuracy, loss) == (1, 2)


@pytest.fixture
def candidate(monkeypatch):
    """A function from accuracies and losses at three alphas to a candidate that has them."""
    monkeypatch.setattr(choose_module, "evaluate", lambda method, *_: method.measured)

    def make(accuracy, loss, diverged=False, **declared):
        measured = Measured(np.array(accuracy, float), np.array(loss, float))
        declared = {"tunes": True, "after": (), "label": "stub"} | declared
        method = types.SimpleNamespace(measured=measured, **declared)
        return types.SimpleNamespace(method=method, params={}, context=None, diverged=diverged)

    return make


def test_the_best_point_of_the_best_candidate_is_chosen(candidate):
    worse = candidate([10, 20, 30], [3, 2, 1])
    better = candidate([10, 40, 40], [3, 2, 1])
    choice = choose([worse, better], GRID, "val", None)
    assert (choice.candidate, choice.at, choice.best_c) == (1, (2,), [30, 40])
    np.testing.assert_array_equal(choice.val_accuracy, [10, 40, 40])


def test_a_candidate_that_is_not_finite_is_not_chosen(candidate):
    fine = candidate([10, 20, 30], [3, 2, 1])
    diverged = candidate([90, 90, 90], [1, 1, 1], diverged=True)
    no_logits = candidate([90, 90, 90], [1, np.nan, 1])
    choice = choose([diverged, fine, no_logits], GRID, "val", None)
    assert (choice.candidate, choice.best_c) == (1, [None, 30, None])
    with pytest.raises(DivergedError, match="no finite logits: lower the learning rate"):
        choose([diverged, no_logits], GRID, "val", None)


@pytest.mark.parametrize(
    ("declared", "advice"),
    [
        ({"tunes": True}, "the tuned parameters .* lower the learning rate"),
        ({"tunes": False, "after": ("safe",)}, "the tuned parameters .* lower the learning rate"),
        ({"tunes": False}, "stub gives .* nothing was tuned: the weights, or the features .* are"),
    ],
)
def test_what_is_not_finite_names_a_cause_that_can_be(candidate, declared, advice):
    with pytest.raises(DivergedError, match=advice) as caught:
        choose([candidate([9, 9, 9], [1, np.nan, 1], **declared)], GRID, "val", None)
    assert ("learning rate" in str(caught.value)) == ("learning rate" in advice)


def test_without_validation_images_or_a_choice_the_first_is_taken(candidate):
    one, other = candidate([10, 20, 30], [3, 2, 1]), candidate([90, 90, 90], [1, 1, 1])
    assert choose([one, other], GRID, None, None) == (0, (0,), None, [])
    assert choose([one], {}, "val", None) == (0, (), None, [])
