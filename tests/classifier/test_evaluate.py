"""Accuracy and loss over a grid."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safe_jax.bank.view import View
from safe_jax.classifier.evaluate import Axes, Reader, eval_step, evaluate
from safe_jax.runtime import devices
from tests.fake_features import view_of
from tests.stand_ins import Scaled


def test_of_equal_logits_the_first_counts_as_argmax_has_it():
    """As for classes of the same name."""
    logits_bk = np.array([[1.0, 1, 0], [1, 1, 0], [0, 1, 1], [2, 1, 3], [np.nan] * 3], np.float32)
    label_b = np.array([0, 1, 2, 2, 1])
    batch = {
        "original_bd": jnp.asarray(logits_bk),
        "label_b": jnp.asarray(label_b),
        "mask_b": jnp.ones(5),
    }
    params = {"classifier": jnp.eye(3), "bias": jnp.zeros(3)}
    axes = Axes([jnp.array([1.0, 2.0])])
    right, _ = eval_step(params, jnp.float32(1), batch, axes, None, method=Scaled())
    assert right.tolist() == [2, 2]


def test_answers_are_sought_among_the_allowed_classes_whatever_fills_a_batch_up():
    """Rows that fill a batch up have label 0, which is not allowed here."""
    features_nd = np.array([[9.0, 2, 1], [9, 1, 2], [0, 2, 1]], np.float32)
    view = View.of("three", {"original_bd": features_nd}, np.array([1, 1, 1]))
    view = dataclasses.replace(view, among_k=np.array([False, True, True]))
    params = {"classifier": jnp.eye(3), "bias": jnp.zeros(3)}
    reader = Reader(devices.make_mesh(jax.devices()[:1]), batch_size=8)
    accuracy, loss = evaluate(
        Scaled(), params, jnp.float32(1), {"scale": np.array([1.0, 2.0])}, view, reader
    )
    np.testing.assert_allclose(accuracy, [200 / 3] * 2)

    def mean_loss(scale):
        """Of two classes whose logits lie `scale` apart: right, wrong, right."""
        right, wrong = np.log1p(np.exp(-scale)), np.log1p(np.exp(scale))
        return (2 * right + wrong) / 3

    np.testing.assert_allclose(loss, [mean_loss(1), mean_loss(2)], rtol=1e-6)


def test_a_single_point_is_measured_as_it_is_in_a_grid(data):
    params = {"classifier": jnp.asarray(data.text), "bias": jnp.zeros(len(data.text))}
    reader = Reader(devices.make_mesh(jax.devices()[:2]), batch_size=16)
    view = view_of(data)
    among_k = np.arange(len(data.text)) > 0
    for seen in (view, dataclasses.replace(view, among_k=among_k)):

        def measured(*scales, seen=seen):
            grid = {"scale": np.array(scales)}
            return evaluate(Scaled(), params, jnp.float32(1), grid, seen, reader)

        several = measured(0.5, 1.0, 4.0)
        for n, scale in enumerate((0.5, 1.0, 4.0)):
            single = measured(scale)
            assert single.accuracy.tolist() == [several.accuracy[n]]
            np.testing.assert_allclose(single.loss, [several.loss[n]], rtol=1e-6)


@pytest.mark.parametrize("at_once", [2, 32])
def test_points_that_are_computed_together_are_those_of_one_after_the_other(data, at_once):
    params = {"classifier": jnp.asarray(data.text), "bias": jnp.zeros(len(data.text))}
    batch = {
        "original_bd": data.original,
        "label_b": data.label,
        "mask_b": np.ones(len(data.label)),
    }
    expected, together = (
        eval_step(
            params, jnp.float32(1), batch, Axes([np.array([0.5, 1.0, 4.0])], at_once), None,
            method=Scaled(),
        )
        for at_once in (None, at_once)
    )  # fmt: skip
    for found, wanted in zip(together, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_batches_and_devices_do_not_matter(data):
    params = {"classifier": jnp.asarray(data.text), "bias": jnp.zeros(len(data.text))}
    grid = {"scale": np.array([0.5, 1.0, 4.0])}
    measured = [
        evaluate(
            Scaled(), params, jnp.float32(1), grid, view_of(data),
            Reader(devices.make_mesh(jax.devices()[:count]), batch_size),
        )
        for count, batch_size in ((1, 30), (1, 7), (4, 16))
    ]  # fmt: skip
    logits_nk = data.original @ data.text.T
    for accuracy, loss in measured:
        np.testing.assert_allclose(accuracy, 100 * (logits_nk.argmax(1) == data.label).mean())
        np.testing.assert_allclose(loss, measured[0].loss, rtol=1e-5)
