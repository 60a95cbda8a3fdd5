"""`fit` and the loop: losses, devices, interruptions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safe_jax.runtime.errors import InputError
from tests.safe_run import flat


def test_fit_gives_the_losses_of_its_steps_and_keeps_the_start(make_run, tmp_path):
    run = make_run()
    before = flat(jax.tree.map(np.array, run.start.params))
    _, losses_s = run.run(tmp_path / "steps")
    tuned = run.fit(tmp_path / "fit")
    np.testing.assert_array_equal(tuned.losses_s, losses_s)
    np.testing.assert_allclose(tuned.epoch_losses, losses_s.reshape(2, 3).mean(1), rtol=1e-6)
    assert tuned.recipe == run.recipe
    assert not tuned.diverged
    assert dataclasses.replace(tuned, losses_s=np.array([1.0, np.nan])).diverged
    after = flat(run.start.params)
    assert all(after[path].tobytes() == x.tobytes() for path, x in before.items())


def test_one_and_eight_devices_give_the_same_losses(make_run, maps_view, tmp_path):
    one, eight = make_run(), make_run(device_count=8)
    tuned_one, tuned_eight = one.fit(tmp_path / "one"), eight.fit(tmp_path / "eight")
    np.testing.assert_allclose(tuned_eight.losses_s, tuned_one.losses_s, rtol=1e-5)
    assert jax.tree.leaves(tuned_eight.params)[0].sharding.num_devices == 8
    alphas = np.linspace(0, 1, 5)
    measured_one = one.evaluate(tuned_one, maps_view, alphas)
    measured_eight = eight.evaluate(tuned_eight, maps_view, alphas)
    np.testing.assert_array_equal(measured_eight.accuracy, measured_one.accuracy)
    np.testing.assert_allclose(measured_eight.loss, measured_one.loss, rtol=1e-5)


@pytest.mark.parametrize("online", [False, True])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(
    make_run, crops, maps_view, tmp_path, online
):
    images = crops if online else maps_view
    state, losses = make_run(images).run(tmp_path / "whole")

    run = make_run(images, every=2)

    def dying(first_step):
        for step, batch in enumerate(run.batches(first_step), first_step):
            if step == 5:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "cut", dying)
    again = make_run(images, every=2)
    firsts = []

    def noting(first_step):
        firsts.append(first_step)
        return again.batches(first_step)

    resumed, resumed_losses = again.run(tmp_path / "cut", noting)
    assert firsts == [4]
    np.testing.assert_array_equal(resumed_losses, losses)
    for path, x in flat(state.params).items():
        assert flat(resumed.params)[path].tobytes() == x.tobytes(), path


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(make_run, tmp_path):
    run = make_run()

    def poisoned(first_step):
        for step, batch in enumerate(run.batches(first_step)):
            if step == 3:
                batch["original_bd"] = batch["original_bd"] * jnp.nan
            yield batch

    with pytest.raises(InputError, match="the loss is nan at step 4: lower"):
        run.run(tmp_path / "run", poisoned)
