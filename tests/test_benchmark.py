"""The benchmark compares the same work; what it measures is for a quiet machine."""

import numpy as np

from configs import default
from safe_jax import knobs
from tests import tiny
from tools import benchmark, benchmark_bank


def test_both_sides_of_the_pool_step_do_the_same_work():
    ours, theirs = benchmark.pool_step(tiny.CONFIG, batch=4)
    (our_loss, our_grads), (their_loss, state) = ours(), theirs()
    np.testing.assert_allclose(our_loss, their_loss, rtol=1e-5)
    found, wanted = our_grads["v_proj"]["kernel"], state["visual.attnpool.v_proj.weight"].grad
    difference = np.asarray(found[...]).reshape(wanted.shape) - wanted.numpy()
    assert np.abs(difference).max() < 1e-4 * wanted.abs().max()
    assert all(seconds > 0 for seconds in benchmark.compare(ours, theirs, rounds=1))


def test_the_grid_search_has_every_point():
    config = knobs.of(knobs.resolve(default.get_config()), "tip_adapter")
    config = tiny.freeze(config, a_steps=3, b_steps=4)
    search = benchmark.cache_grid(images=20, classes=3, shots=2, width=8, config=config)
    assert search().shape == (4, 3)


def test_the_bank_s_benchmark_measures_time_and_memory(tmp_path):
    tuning, pause, memory, *reads = benchmark_bank.measure(
        tmp_path, maps=256, steps=1, rounds=1, clip_config=tiny.CONFIG
    )
    assert tuning["ms_a_step_read_ahead"] > 0
    assert pause["ms_a_step_read_between"] >= 5
    assert memory["peak_mb"] >= memory["before_mb"] > 0
    assert [row["what"] for row in reads] == ["positional reads", "memory map"] * 2
