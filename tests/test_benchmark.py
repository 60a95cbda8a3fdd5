"""The benchmark compares the same work; what it measures is for a quiet machine."""

import numpy as np

from tests import tiny
from tools import benchmark


def test_both_sides_of_the_pool_step_do_the_same_work():
    ours, theirs = benchmark.pool_step(tiny.CONFIG, batch=4)
    (our_loss, our_grads), (their_loss, state) = ours(), theirs()
    np.testing.assert_allclose(our_loss, their_loss, rtol=1e-5)
    found, wanted = our_grads["v_proj"]["kernel"], state["visual.attnpool.v_proj.weight"].grad
    difference = np.asarray(found[...]).reshape(wanted.shape) - wanted.numpy()
    assert np.abs(difference).max() < 1e-4 * wanted.abs().max()
    assert all(seconds > 0 for seconds in benchmark.compare(ours, theirs, rounds=1))
