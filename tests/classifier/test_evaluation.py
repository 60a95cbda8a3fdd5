"""What is said of a classifier: numbers computed by hand, by scikit-learn and in another way."""

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from safe_jax.classifier import evaluation
from safe_jax.classifier.evaluation import Attention, Evaluation, Facts
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError

FACTS = Facts("pets.safe", "photos/", "SAFE", unreadable=[("torn.jpg", "the file is cut off")])
CLASSES = ["cat", "dog", "fox", "owl"]
PROBABILITY_NK = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],  # cat, right
        [0.5, 0.3, 0.1, 0.1],  # cat, right
        [0.1, 0.7, 0.1, 0.1],  # cat, taken for dog
        [0.2, 0.6, 0.1, 0.1],  # dog, right
        [0.9, 0.05, 0.03, 0.02],  # dog, taken for cat
        [0.1, 0.4, 0.3, 0.2],  # fox, taken for dog
    ]
)
LABEL_N = np.array([0, 0, 0, 1, 1, 2])  # no owl
PATHS = [f"{n}.jpg" for n in range(6)]


def evaluate(temperature=2.0, logits_nk=None, **facts):
    """At temperature 2 the probabilities are those above, by default."""
    logits_nk = 2 * np.log(PROBABILITY_NK) if logits_nk is None else logits_nk
    facts = FACTS._replace(**facts)
    return evaluation.evaluate_probabilities(logits_nk, LABEL_N, PATHS, CLASSES, temperature, facts)


@pytest.fixture(scope="module")
def many():
    """Logits and labels of 400 images and 12 classes; the last class has no image."""
    random = np.random.default_rng(0)
    label_n = random.integers(0, 11, 400)
    logits_nk = random.normal(size=(400, 12)) + 2 * np.eye(12)[label_n]
    return logits_nk.astype(np.float32), label_n


def softmax(logits_nk, temperature):
    rows = [[math.exp(x / temperature) for x in row] for row in logits_nk.tolist()]
    return np.array([[x / sum(row) for x in row] for row in rows])


def test_accuracy_classes_and_confusions_are_those_counted_by_hand():
    found = evaluate()
    assert (found.count, found.accuracy, found.seen) == (6, 50.0, 0)
    assert found.confusion == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert [(c.name, c.count) for c in found.per_class] == list(
        zip(CLASSES, [3, 2, 1, 0], strict=True)
    )
    assert [c.recall for c in found.per_class] == [pytest.approx(200 / 3), 50, 0, None]
    assert [c.precision for c in found.per_class] == [
        pytest.approx(200 / 3), pytest.approx(100 / 3), None, None,
    ]  # fmt: skip
    assert [c.name for c in found.by_recall()] == ["fox", "dog", "cat", "owl"]
    assert found.confusions() == [("cat", "dog", 1), ("dog", "cat", 1), ("fox", "dog", 1)]


def test_mistakes_are_those_of_which_the_classifier_was_surest():
    found = evaluate()
    assert [(m.path, m.label, m.answer) for m in found.mistakes] == [
        ("4.jpg", "dog", "cat"),
        ("2.jpg", "cat", "dog"),
        ("5.jpg", "fox", "dog"),
    ]
    assert [m.probability for m in found.mistakes] == pytest.approx([0.9, 0.7, 0.4])


def test_coverage_is_the_part_of_the_images_that_are_sure_enough():
    by_threshold = {c.threshold: (c.coverage, c.accuracy) for c in evaluate().coverage}
    assert list(by_threshold) == [*(n / 100 for n in range(0, 100, 5)), 0.99]
    assert by_threshold[0.0] == by_threshold[0.35] == (100, 50)
    assert by_threshold[0.45] == pytest.approx((500 / 6, 60))
    assert by_threshold[0.65] == pytest.approx((50, 100 / 3))
    assert by_threshold[0.85] == pytest.approx((100 / 6, 0))
    assert by_threshold[0.99] == (0, None)


def test_the_calibration_error_is_that_computed_by_hand():
    """Of two bins: confidences 0.5 and 0.4, one of two right; 0.7, 0.7, 0.6, 0.9, two of four."""
    by_hand = (2 * abs(50 - 45) + 4 * abs(50 - 72.5)) / 6
    found = evaluation.expected_calibration_error(PROBABILITY_NK, LABEL_N, bins=2)
    assert found == pytest.approx(by_hand)
    sure_nk = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert evaluation.expected_calibration_error(sure_nk, np.array([0, 0])) == 0
    assert evaluation.expected_calibration_error(sure_nk, np.array([0, 1])) == 50
    assert evaluation.expected_calibration_error(sure_nk, np.array([1, 1])) == 100


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_many_images_agree_with_scikit_learn_and_with_a_plain_sum(many, temperature):
    logits_nk, label_n = many
    classes = [f"class {n}" for n in range(12)]
    paths = [f"{n}.jpg" for n in range(400)]
    found = evaluation.evaluate_probabilities(
        logits_nk, label_n, paths, classes, temperature, FACTS
    )
    answer_n, labels = logits_nk.argmax(1), range(12)
    assert found.accuracy == pytest.approx(100 * sklearn.metrics.accuracy_score(label_n, answer_n))
    confusion_kk = sklearn.metrics.confusion_matrix(label_n, answer_n, labels=labels)
    assert found.confusion == confusion_kk.tolist()
    precision_k, recall_k, _, count_k = sklearn.metrics.precision_recall_fscore_support(
        label_n, answer_n, labels=labels, zero_division=np.nan
    )
    assert [c.count for c in found.per_class] == count_k.tolist()
    for name, expected_k in (("precision", precision_k), ("recall", recall_k)):
        values = [getattr(c, name) for c in found.per_class]
        shares = [math.nan if x is None else x / 100 for x in values]
        np.testing.assert_allclose(shares, expected_k)
    assert found.per_class[11].recall is None
    for used, error in (
        (temperature, found.calibration_error),
        (1.0, found.calibration_error_untempered),
    ):
        probability_nk = softmax(logits_nk, used)
        assert error == pytest.approx(plain_calibration_error(probability_nk, label_n), abs=1e-4)
    assert sum(one.count for one in found.reliability) == 400
    assert len(found.reliability) == 15
    assert len(found.mistakes) == 12


def plain_calibration_error(probability_nk, label_n):
    bins = {}
    for row, label in zip(probability_nk.tolist(), label_n, strict=True):
        confidence = max(row)
        bins.setdefault(math.ceil(15 * confidence), []).append(
            (confidence, row.index(confidence) == label)
        )
    distances = [abs(sum(c for c, _ in x) - sum(right for _, right in x)) for x in bins.values()]
    return 100 * sum(distances) / len(label_n)


def test_blocks_of_images_do_not_matter(many, monkeypatch):
    logits_nk, _ = many
    whole_n = evaluation.calibration.confidence(logits_nk, 2.0)
    np.testing.assert_allclose(whole_n, softmax(logits_nk, 2.0).max(1), rtol=1e-6)
    monkeypatch.setattr(evaluation.calibration, "_BLOCK", 7)
    np.testing.assert_array_equal(evaluation.calibration.confidence(logits_nk, 2.0), whole_n)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 0, 0, 100),
        (0, 10, 0, 27.753),  # z² / (n + z²)
        (10, 10, 72.247, 100),
        (5, 10, 23.659, 76.341),
        (81, 263, 25.53, 36.62),  # of Newcombe 1998, table I
    ],
)
def test_wilson_intervals_are_those_of_tables(right, count, low, high):
    found = evaluation.wilson_interval(right, count)
    assert found == pytest.approx((low, high), abs=5e-3)


def test_a_bound_of_wilsons_interval_is_where_its_score_test_is_at_the_edge():
    """(p - p0)² = z² p0 (1 - p0) / n, of which the interval is the solution."""
    for bound in evaluation.wilson_interval(37, 52):
        at = bound / 100
        assert (37 / 52 - at) ** 2 == pytest.approx(1.959963984540054**2 * at * (1 - at) / 52)


def test_of_equal_logits_the_first_is_the_answer():
    found = evaluate(logits_nk=np.zeros((6, 4), np.float32))
    assert found.accuracy == 50.0
    assert {mistake.answer for mistake in found.mistakes} == {"cat"}
    assert [mistake.path for mistake in found.mistakes] == ["3.jpg", "4.jpg", "5.jpg"]
    assert found.calibration_error == 25.0


def test_what_cannot_be_evaluated_is_said_in_a_line():
    logits_nk = np.log(PROBABILITY_NK)
    logits_nk[1, 2] = np.nan
    with pytest.raises(InputError, match=r"^pets.safe gives no finite logits for 1 of 6 images: "):
        evaluate(logits_nk=logits_nk)
    with pytest.raises(InputError, match=r"^photos/: no image could be evaluated; "):
        evaluation.evaluate_probabilities(np.zeros((0, 4)), LABEL_N[:0], [], CLASSES, 1.0, FACTS)


def test_json_is_read_back_as_the_same_evaluation():
    found = evaluate(unreadable=[("b\udcffd.jpg", "no image")])  # a name that is no UTF-8
    assert found.unreadable == [("b\\udcffd.jpg", "no image")]
    maps = Attention(original=[[0.25, 0.25], [0.25, 0.25]], tuned=[[0.7, 0.1], [0.1, 0.1]])
    found = found.with_looks(["data:image/jpeg;base64,AA==", None, None], [maps, None, maps])
    assert [mistake.attention for mistake in found.mistakes] == [maps, None, maps]
    content = found.model_dump_json().encode()
    assert schema.read_json(Evaluation, content, "evaluation.json: ") == found
    with pytest.raises(InputError, match=r"^mistake.picture='x.jpg': a data URI of a JPEG"):
        found.with_looks(["x.jpg", None, None], [None] * 3)


def test_the_summary_says_it_in_lines():
    assert evaluation.summary(evaluate()).splitlines() == [
        "pets.safe (SAFE) on photos/",
        "accuracy: 50.00 % of 6 images (95 % interval 18.76 to 81.24 %)",
        f"calibration error: {evaluate().calibration_error:.2f} % with temperature 2, "
        f"{evaluate().calibration_error_untempered:.2f} % without",
        "lowest recall:",
        "  0.00 %  fox (1 image)",
        "  50.00 %  dog (2 images)",
        "  66.67 %  cat (3 images)",
        "most frequent confusions:",
        "  1  cat, taken for dog",
        "  1  dog, taken for cat",
        "  1  fox, taken for dog",
        "1 image could not be read and was left out",
    ]
    warned = evaluation.summary(evaluate(seen=4)).splitlines()
    assert warned[-1] == (
        "warning: the classifier was fitted on 4 of these 6 images: "
        "do not expect this accuracy of new images"
    )


def test_a_classifier_without_mistakes_has_a_short_summary(many):
    _, label_n = many
    found = evaluation.evaluate_probabilities(
        9 * np.eye(12)[label_n], label_n, list("a" * 400), list("abcdefghijkl"), 1.0,
        FACTS._replace(unreadable=[]),
    )  # fmt: skip
    lines = evaluation.summary(found).splitlines()
    assert lines[1] == "accuracy: 100.00 % of 400 images (95 % interval 99.05 to 100.00 %)"
    assert len(lines) == 3


def test_at_most_five_classes_and_pairs_are_listed(many):
    logits_nk, label_n = many
    found = evaluation.evaluate_probabilities(
        logits_nk, label_n, list("a" * 400), list("abcdefghijkl"), 1.0, FACTS
    )
    lines = evaluation.summary(found).splitlines()
    assert sum(line.startswith("  ") for line in lines) == 10


def test_it_loads_no_jax():
    script = "import safe_jax.classifier.evaluation, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
