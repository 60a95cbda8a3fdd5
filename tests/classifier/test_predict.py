"""A stream of images through a classifier: bounded, in order, whatever fails, however many."""

import itertools
import shutil

import jax
import numpy as np
import pytest

from safe_jax.classifier import artifact, predict
from safe_jax.classifier.predict import Source
from safe_jax.data import images, photos
from safe_jax.runtime import devices


@pytest.fixture(scope="module")
def classifier(fitted):
    """On one device."""
    loaded = artifact.load(fitted.folder)
    vars(loaded)["mesh"] = devices.make_mesh(jax.devices()[:1])  # a cached property
    return loaded


@pytest.fixture(scope="module")
def files(bench):
    """Images of all classes in turn."""
    of_classes = (bench.images("test", name) for name in ("red", "green", "blue", "dark_grey"))
    return list(itertools.chain.from_iterable(zip(*of_classes, strict=True)))


def sources(files):
    return [Source(file.parent.name, file) for file in files]


def scores(classifier, given, count=None, **options):
    """The logits of all images, batch after batch, and the reasons."""
    found = list(predict.score(classifier, given, count, workers=2, **options))
    reasons = [reason for batch in found for reason in batch.reasons]
    return np.concatenate([batch.logits_nk for batch in found]), reasons


@pytest.fixture(scope="module")
def logits_nk(classifier, files):
    """Those of the batches that a bank has, in which each image stands at another place."""
    return scores(classifier, sources(files))[0]


def test_answers_do_not_depend_on_how_many_images_there_are(classifier, files, logits_nk):
    """Programs of other sizes, other places in a batch, other neighbours: nothing but rounding."""
    assert predict.WIDTHS == (1, 8, 32)
    assert np.ptp(logits_nk) > 0.5
    for first, last in ((0, 1), (47, 48), (0, 7), (5, 13), (3, 36), (0, 48)):
        found, _ = scores(classifier, sources(files[first:last]), last - first)
        np.testing.assert_allclose(found, logits_nk[first:last], rtol=1e-5, atol=1e-5)


def test_a_batch_is_as_small_as_the_number_of_images_allows(classifier, files):
    for count, widths in {1: [1], 2: [2], 8: [8], 33: [32, 1]}.items():
        given = sources(files[:count])
        batches = list(predict.score(classifier, given, count, workers=2))
        assert [len(batch.sources) for batch in batches] == widths
        assert [source for batch in batches for source in batch.sources] == given
    assert list(predict.score(classifier, [])) == []


def test_a_stream_is_not_read_far_ahead(classifier, files):
    """Of any number of images only some batches are in memory."""
    taken = itertools.count()
    endless = (Source(str(next(taken)), file) for file in itertools.cycle(files))
    stream = predict.score(classifier, endless, workers=2)
    for number in range(3):
        batch = next(stream)
        assert [int(source.name) for source in batch.sources] == [
            number * 32 + at for at in range(32)
        ]
        # This batch, the one that a device works on, four that are decoded, one being read.
        assert next(taken) - number - 1 <= (number + 7) * 32
    stream.close()


def test_images_that_cannot_be_read_leave_the_others_as_they_are(
    classifier, files, logits_nk, tmp_path
):
    given = sources(files)
    (tmp_path / "cut.jpg").write_bytes(files[5].read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    bad = {0: "absent.jpg", 5: "cut.jpg", 32: "text.jpg", 47: "absent.jpg"}
    for at, name in bad.items():
        given[at] = Source(name, tmp_path / name)
    found, reasons = scores(classifier, given, len(given))
    for at, reason in enumerate(reasons):
        if at in bad:
            assert np.isnan(found[at]).all()
        else:
            assert reason is None
            np.testing.assert_allclose(found[at], logits_nk[at], rtol=1e-5, atol=1e-5)
    assert [reasons[at].split(": ")[0] for at in bad] == [
        "missing", "cannot be decoded", "cannot be decoded", "missing",
    ]  # fmt: skip


def test_images_in_memory_have_the_answers_of_their_files(classifier, files, logits_nk):
    held = []
    for file in files:
        with images.opened(file) as image:
            held.append(Source(*photos.as_source(np.asarray(image))))
    found, reasons = scores(classifier, held)
    assert set(reasons) == {None}
    np.testing.assert_array_equal(found, logits_nk)


def test_probabilities_are_those_of_the_temperature(classifier, files, logits_nk):
    (batch,) = predict.score(classifier, sources(files[:9]), workers=2)
    probability_nk = batch.probabilities(classifier.temperature)
    assert probability_nk.dtype == np.float64
    exp_nk = np.exp(logits_nk[:9].astype(float) / classifier.temperature)
    np.testing.assert_allclose(probability_nk, exp_nk / exp_nk.sum(1, keepdims=True), rtol=1e-6)


def test_attention_comes_with_the_same_answers(classifier, files, logits_nk):
    found = list(predict.score(classifier, sources(files), with_attention=True))
    np.testing.assert_array_equal(np.concatenate([x.logits_nk for x in found]), logits_nk)
    for batch in found:
        assert batch.attention.keys() == {"original", "tuned"}
        for maps_nhw in batch.attention.values():
            assert maps_nhw.shape == (len(batch.sources), 2, 2)
            np.testing.assert_allclose(maps_nhw.sum((1, 2)), 1, rtol=1e-5)
    assert np.abs(found[0].attention["tuned"] - found[0].attention["original"]).max() > 1e-3


def test_a_file_that_changes_its_name_does_not_matter(classifier, files, logits_nk, tmp_path):
    """Nothing but the pixels counts."""
    shutil.copy(files[7], tmp_path / "other.png")
    found, _ = scores(classifier, sources([*files[:32], tmp_path / "other.png"]))
    np.testing.assert_allclose(found[32], logits_nk[7], rtol=1e-5, atol=1e-5)
