"""Rows of a file: what NumPy's indexing gives, without keeping the file in memory."""

import os

import numpy as np
import pytest

from safe_jax.bank import row_file


def test_rows_are_what_numpy_indexes(tmp_path):
    whole = np.random.default_rng(0).normal(size=(50, 3, 5)).astype(np.float16)
    np.save(tmp_path / "rows.npy", whole)
    found = row_file.RowFile(tmp_path / "rows.npy")
    assert (len(found), found.shape, found.dtype, found.nbytes) == (
        50,
        (50, 3, 5),
        np.float16,
        1500,
    )
    for which in (
        7, -1, slice(3, 9), slice(None, None, -2), [4, 5, 6, 2, 2, 49, 0],
        np.array([[1, 2], [40, 3]]), np.arange(50) % 3 == 0, np.array([], int),
    ):  # fmt: skip
        np.testing.assert_array_equal(found[which], whole[which])
    np.testing.assert_array_equal(found, whole)
    with pytest.raises(IndexError):
        found[50]


def test_a_bank_that_was_cut_short_is_told(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((50, 8)))
    found = row_file.RowFile(tmp_path / "rows.npy")
    os.truncate(tmp_path / "rows.npy", 1000)
    with pytest.raises(OSError, match="shorter than it was"):
        found[:]
