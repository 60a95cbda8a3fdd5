"""Views of a bank: images by their records, and arrays computed from dense maps."""

import jax
import numpy as np
import pytest

from safe_jax.bank.view import View
from safe_jax.data.records import Record
from safe_jax.runtime import devices


@pytest.fixture
def bank():
    """Four images in two views."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(8, 2, 2, 3)).astype(np.float16)
    pooled = rng.normal(size=(8, 5)).astype(np.float32)
    arrays = {"dense_bhwc": dense, "original_bd": pooled}
    return View("bank", arrays, 2, np.arange(4), paths=("a", "b", "c", "d"))


def test_records_are_found_by_their_paths(bank):
    view = bank.select([Record("d", 1, "x"), Record("b", 0, "y")])
    np.testing.assert_array_equal(view.image_n, [3, 1])
    np.testing.assert_array_equal(view.label_n, [1, 0])
    np.testing.assert_array_equal(view.row_nv, [[6, 7], [2, 3]])
    assert view.key == bank.key
    elsewhere = bank.select([Record("d", 1, "x")], classes=[5, 9])  # label 1 there is 9 here
    np.testing.assert_array_equal(elsewhere.label_n, [9])
    with pytest.raises(KeyError, match="absent"):
        bank.select([Record("absent", 0, "x")])


def test_other_arrays_have_another_key(bank):
    pooled = bank.only(("original_bd",))
    assert list(pooled.arrays) == ["original_bd"]
    assert pooled.key == bank.only(("original_bd",)).key != bank.key


def test_arrays_are_computed_for_every_view_of_the_images_that_are_seen(bank):
    view = bank.select([Record("d", 1, "x"), Record("b", 0, "y")])
    mesh = devices.make_mesh(jax.devices()[:2])
    functions = {"sum_bc": lambda dense_bhwc: dense_bhwc.astype(np.float32).sum((1, 2))}
    computed = view.compute("sums", functions, batch_size=3, mesh=mesh)
    rows = [6, 7, 2, 3]
    wanted = bank.arrays["dense_bhwc"][rows].astype(np.float32).sum((1, 2))
    np.testing.assert_allclose(computed.arrays["sum_bc"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(computed.arrays["original_bd"], bank.arrays["original_bd"][rows])
    np.testing.assert_array_equal(computed.row_nv, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(computed.label_n, view.label_n)
    assert computed.key != view.key
