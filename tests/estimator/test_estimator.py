"""`SafeClassifier` by itself, and in the hands of scikit-learn.

Axes: n images, h and w cells, k classes.
"""

import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.base
import sklearn.model_selection

from safe_jax import SafeClassifier
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests import tiny

pytestmark = pytest.mark.usefixtures("one_device_throughout")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def make(tiny_root, cache, one_device_throughout):
    """A function to an estimator whose fit takes a second or two."""

    def make(**changed):
        given = {
            "weights": str(tiny_root / "clip_tiny"), "cache_dir": str(cache), "epochs": 2,
            "learning_rates": (1e-3,), "workers": 2,
        }  # fmt: skip
        return SafeClassifier(**given | changed)

    return make


@pytest.fixture(scope="module")
def labelled(tiny_root):
    """Paths of training images of each colour, and their labels as a folder has them."""
    root = tiny_root / "patches" / "images"
    labels = [name for name in tiny.COLOURS for _ in range(tiny.COUNTS["train"])]
    paths = [root / name / f"train_{n % tiny.COUNTS['train']:02}.jpg"
             for n, name in enumerate(labels)]  # fmt: skip
    return paths, labels


@pytest.fixture(scope="module")
def pictures(tiny_root):
    """Paths of test images, and their labels."""
    root = tiny_root / "patches" / "images"
    return [root / name / "test_00.jpg" for name in tiny.COLOURS], list(tiny.COLOURS)


@pytest.fixture(scope="module")
def fitted(make, labelled):
    """SAFE; scikit-learn could not be imported meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
            patch.setitem(sys.modules, name, None)
        return make().fit(*labelled)


def test_fit_takes_a_fifth_to_choose_with_and_says_what_it_chose(fitted, labelled):
    assert list(fitted.classes_) == sorted(tiny.COLOURS)
    classifier, making = fitted.classifier_, fitted.classifier_.making
    assert (making.train_images, making.val_images) == (32, 8)
    assert (making.shots, making.seed, making.selection) == (8, 1, "full_val")
    assert (making.epochs, making.learning_rate) == (2, 1e-3)
    assert list(classifier.prompts[1]) == ["a photo of a dark grey."]
    assert list(classifier.classifier.point) == ["alpha"]
    assert making.val_accuracy >= making.val_accuracy_zero_shot
    assert len(making.seen) == len(set(making.seen)) == len(labelled[0])


def test_answers_are_the_labels_that_were_given(fitted, pictures):
    paths, labels = pictures
    probability_nk = fitted.predict_proba(paths)
    assert probability_nk.shape == (len(paths), len(fitted.classes_))
    np.testing.assert_allclose(probability_nk.sum(1), 1, rtol=1e-12)
    predicted = fitted.predict(paths)
    np.testing.assert_array_equal(predicted, fitted.classes_[probability_nk.argmax(1)])
    assert set(predicted) <= set(labels)
    assert fitted.score(paths, predicted) == 1
    assert fitted.score(paths, labels) == np.mean(predicted == np.array(labels))
    others = [next(name for name in labels if name != answer) for answer in predicted]
    assert fitted.score(paths, others) == 0
    with pytest.raises(InputError, match="a label for each image is expected: 4 and 3"):
        fitted.score(paths, labels[:3])


def test_paths_pillow_images_and_arrays_give_the_same_answers(fitted, pictures):
    paths, _ = pictures
    opened = [PIL.Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    wanted_nk = fitted.predict_proba(paths)
    assert np.ptp(wanted_nk, axis=0).max() > 1e-4  # the pictures matter
    for images in (list(map(str, paths)), opened, arrays, iter(arrays), [paths[0], *arrays[1:]]):
        np.testing.assert_array_equal(fitted.predict_proba(images), wanted_nk)


def test_an_image_that_cannot_be_used_is_named(fitted, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    for images, message in (
        ([*pictures[0], broken], rf"{broken}: cannot be decoded"),
        ([*pictures[0], tmp_path / "absent.jpg"], r"absent\.jpg: missing"),
        ([np.zeros((8, 8, 3), np.float32)], r"an array of float32 \(8, 8, 3\): uint8 is expected"),
        ([3], "int: an image is expected as a path, a Pillow image or an array"),
        ([], "at least one image is expected"),
    ):
        for function in (fitted.predict, fitted.predict_proba, fitted.attention):
            with pytest.raises(InputError, match=message):
                function(images)


def test_attention_is_a_map_of_each_image(fitted, pictures):
    tuned_nhw, original_nhw = (
        fitted.attention(pictures[0], pool) for pool in ("tuned", "original")
    )
    for map_nhw in (tuned_nhw, original_nhw):
        assert map_nhw.shape == (4, 2, 2)
        np.testing.assert_allclose(map_nhw.sum((1, 2)), 1, rtol=1e-5)
    assert abs(tuned_nhw - original_nhw).max() > 1e-4
    np.testing.assert_array_equal(fitted.attention(pictures[0]), tuned_nhw)
    with pytest.raises(InputError, match="pool='mean': one of original, tuned is expected"):
        fitted.attention(pictures[0], "mean")


def test_what_is_loaded_gives_the_same_answers(fitted, pictures, tmp_path):
    fitted.save(tmp_path / "colours")
    loaded = SafeClassifier.load(str(tmp_path / "colours"))
    np.testing.assert_array_equal(
        loaded.predict_proba(pictures[0]), fitted.predict_proba(pictures[0])
    )
    np.testing.assert_array_equal(loaded.classes_, fitted.classes_)
    kept = {"method": "safe", "shots": 8, "seed": 1, "epochs": 2}
    assert {name: loaded.get_params()[name] for name in kept} == kept
    with pytest.raises(InputError, match="colours exists already"):
        fitted.save(tmp_path / "colours")


def test_what_is_not_fitted_says_so(make, pictures, tmp_path):
    estimator = make()
    assert not hasattr(estimator, "classes_")
    for call in (
        lambda: estimator.predict(pictures[0]),
        lambda: estimator.predict_proba(pictures[0]),
        lambda: estimator.score(*pictures),
        lambda: estimator.attention(pictures[0]),
        lambda: estimator.save(tmp_path / "colours"),
    ):
        with pytest.raises(InputError, match="this SafeClassifier is not fitted yet: call fit"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "magic"}, f"method='magic': one of {', '.join(METHODS)} is expected"),
        ({"shots": 0}, "shots=0: at least 1 and at most 1000000 is expected"),
        ({"templates": ()}, "templates=(): at least one value is expected"),
        ({"weights": "absent"}, "absent: no such directory of converted weights"),
    ],
)
def test_what_fit_cannot_take_is_an_error_of_a_line(make, labelled, given, message):
    with pytest.raises(InputError) as raised:
        make(**given).fit(*labelled)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["red"], "a label for each image is expected: 2 and 1"),
        (["red", 3], "label 3: a class name is expected, as prompts are made of it"),
        (["red", "red"], "at least two classes are expected, not 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make, labelled, labels, message):
    with pytest.raises(InputError, match=message):
        make().fit(labelled[0][:2], labels)


def test_parameters_are_those_of_the_constructor(make):
    estimator = make(seed=7)
    assert estimator.get_params()["seed"] == 7
    assert SafeClassifier(**estimator.get_params()).get_params() == estimator.get_params()
    assert estimator.set_params(seed=8, shots=2) is estimator
    assert (estimator.seed, estimator.shots) == (8, 2)
    with pytest.raises(ValueError, match="alpha is no parameter; one of weights, method, shots,"):
        estimator.set_params(alpha=1)
    assert "seed=8" in repr(estimator)


def test_scikit_learn_knows_it_as_a_classifier_and_clones_it(fitted, make):
    assert sklearn.base.is_classifier(fitted)
    clone = sklearn.base.clone(fitted)
    assert clone is not fitted
    assert clone.get_params() == fitted.get_params()
    assert not hasattr(clone, "classifier_")
    sklearn.utils.validation.check_is_fitted(fitted)
    for unfitted in (clone, make()):
        with pytest.raises(sklearn.exceptions.NotFittedError):
            sklearn.utils.validation.check_is_fitted(unfitted)


def test_scikit_learn_cross_validates_it(make, labelled):
    paths, labels = labelled
    scores = sklearn.model_selection.cross_val_score(
        make(method="zero_shot"), paths, labels, cv=2, error_score="raise"
    )
    whole = make(method="zero_shot").fit(paths, labels)  # the same whatever it is fitted on
    halves = sklearn.model_selection.StratifiedKFold(2).split(paths, labels)
    wanted = [
        whole.score([paths[n] for n in held_out], [labels[n] for n in held_out])
        for _, held_out in halves
    ]
    np.testing.assert_array_equal(scores, wanted)


def test_scikit_learn_searches_its_parameters(make, labelled, pictures):
    """Of images in memory; of two halves one is enough."""
    images = np.stack([np.asarray(PIL.Image.open(path).resize((64, 64))) for path in labelled[0]])
    halves = sklearn.model_selection.StratifiedKFold(2).split(images, labelled[1])
    search = sklearn.model_selection.GridSearchCV(
        make(), {"method": ["zero_shot", "tip_adapter"]}, cv=[next(halves)], error_score="raise"
    )
    search.fit(images, labelled[1])
    zero_shot, tuned = search.cv_results_["mean_test_score"]
    assert tuned > zero_shot
    assert search.best_params_ == {"method": "tip_adapter"}
    assert search.best_estimator_.classifier_.classifier.name == "tip_adapter"
    np.testing.assert_array_equal(search.classes_, sorted(tiny.COLOURS))
    assert search.predict(pictures[0]).shape == (4,)
