"""Batches cut between devices, and made ahead of the step that needs them."""

import jax
import numpy as np
import pytest

from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError


def test_batches_are_made_ahead_in_order_and_their_errors_are_raised():
    made = []

    def counted():
        for number in range(5):
            made.append(number)
            yield number
        raise ValueError("no more")

    batches = devices.prefetch(counted(), depth=2)
    assert next(batches) == 0
    while len(made) < 3:  # two more are made while nobody asks
        pass
    assert [next(batches) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no more"):
        next(batches)


def test_a_batch_is_cut_alike_from_the_whole_and_from_a_hosts_rows():
    mesh = devices.make_mesh()
    whole = np.arange(32).reshape(16, 2)
    np.testing.assert_array_equal(devices.own_rows(mesh, 16), np.arange(16))
    for cut in (devices.shard(mesh, whole), devices.shard_own(mesh, whole, 16)):
        np.testing.assert_array_equal(cut, whole)
        assert [shard.data.shape for shard in cut.addressable_shards] == [(2, 2)] * 8


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to\ninitialize")])
def test_a_platform_that_is_not_here_has_one_line(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(InputError, match=r"^JAX_PLATFORMS=cuda: JAX finds no .*; unset it, or"):
        devices.make_mesh()
