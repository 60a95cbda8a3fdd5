"""The benchmarks compare the same work. The times themselves are for a quiet machine."""

import re
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from safe_jax.data import datasets
from safe_jax.data.datasets import DataSettings
from tests import tiny
from tools import scaling
from tools.benchmarks import bank, grid, harness, input, pool, predict, trunk, tuning

CPU = torch.device("cpu")
PEAK = harness.Peak(flops=1e9, bytes=1e9)
GRID = {"a_steps": 3, "b_steps": 4, "a_max": 3.0, "b_max": 7.0}


@pytest.mark.parametrize(
    ("cases", "names", "count"),
    [
        (
            lambda _: trunk.cases(tiny.CONFIG, 2, jnp.float32, CPU)[:2],
            ["trunk", "trunk, peers' form"],
            2,
        ),
        (lambda _: pool.cases(tiny.CONFIG, 4, CPU), ["pool", "pool_step"], 4),
        (
            lambda _: tuning.cases(tiny.CONFIG, jnp.float32, CPU, classes=4, shots=2, epochs=3),
            ["tuning", "extraction_and_tuning"],
            3 * 4 * 2,
        ),
        (
            lambda _: grid.cases(CPU, images=20, classes=3, shots=2, width=8, changed=GRID),
            ["cache_grid"],
            3 * 4,
        ),
        (  # in no other process, and not compiled, which takes PyTorch long
            lambda folder: predict.cases(
                tiny.CONFIG, input.drawn(3, folder), jnp.float32, CPU, workers=0, compiled=False
            ),
            ["predict"],
            3,
        ),
    ],
    ids=["trunk", "pool", "tuning", "grid", "predict"],
)
def test_both_sides_do_the_same_work(tmp_path, cases, names, count):
    # Raises where they do not.
    rows = [harness.run(case, 1, PEAK, PEAK) for case in cases(tmp_path)]
    assert [row["what"] for row in rows] == names
    for row in rows:
        assert row["ours_s"] > 0
        assert row["ratio"] == pytest.approx(row["theirs_s"] / row["ours_s"], rel=2e-3)
        assert row["count"] == count
    lines = harness.table(rows).splitlines()
    assert [re.split("  +", line)[0] for line in lines[1:]] == names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(1.0, 2.0), (float("nan"), 1.0), (np.eye(2), np.eye(2)[::-1]), (np.ones(2), np.ones(1))],
)
def test_other_work_is_refused(ours, theirs):
    case = harness.Case("x", lambda: ours, lambda: theirs, 1, "pieces")
    with pytest.raises(AssertionError, match="x is not the same work"):
        harness.run(case, 1, PEAK, PEAK)


def test_floors_ratios_and_parts_are_computed(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    case = harness.Case(
        "x", lambda: 1.0, lambda: 1.0, 8, "pieces", flops=4e8, trunk_flops=1e9, bytes=2e8,
        cpu_seconds=0.25, theirs_times=20,
    )  # fmt: skip
    row = harness.run(case, 3, PEAK, harness.Peak(flops=1e10, bytes=1e9))
    assert (row["ours_s"], row["theirs_s"], row["ratio"]) == (1, 20, 20)
    assert (row["floor_s"], row["share"]) == (0.75, 0.75)
    monkeypatch.setattr(
        harness.jax, "default_backend", lambda: "gpu"
    )  # which cores do not wait for
    assert harness.run(case, 3, PEAK, harness.Peak(flops=1e10, bytes=1e9))["floor_s"] == 0.5


def test_the_banks_benchmark_measures_time_and_memory(tmp_path):
    made = bank.write(tmp_path, 256, tiny.CONFIG)
    taken, pause, memory, *reads = bank.measure(
        tmp_path, made, tiny.CONFIG, batch=64, steps=1, rounds=1
    )
    assert (taken["what"], pause["what"]) == ("tuning", "a pause of 5 ms for a step")
    for row in (taken, pause):
        both = row["ms_a_step_read_between"], row["ms_a_step_read_ahead"]
        assert min(both) > 0
        rounding = 0.01 + 0.1 / min(both)
        assert row["ratio"] == pytest.approx(both[0] / both[1], rel=rounding)
    assert pause["ms_a_step_read_between"] >= 5
    assert memory["bank_mb"] == made.arrays["dense_bhwc"].nbytes // 10**6
    assert memory["peak_mb"] >= memory["before_mb"] > 0
    assert [row["what"] for row in reads] == ["positional reads", "memory map"] * 2
    assert all(row["peak_mb"] > 0 for row in reads)
    whole = bank.measure_whole(tmp_path, made, tiny.CONFIG, batch=64, epochs=2)
    assert whole["what"] == "2 epochs of 256 maps, batch 64"
    assert whole["peak_mb"] >= whole["before_mb"] > 0


def test_the_plot_of_time_and_memory_is_drawn(tmp_path):
    rows = [
        {"series": series, "work": work, "seconds": 1.0, "megabytes": 500}
        for series, values in scaling.SERIES.items()
        for work in values
    ]
    scaling.draw(rows, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("}svg")
    axes = [x.get("id") for x in root.iter() if (x.get("id") or "").startswith("axes_")]
    assert len(axes) == 2 * len(scaling.SERIES)
    lines = ("measured", "in proportion", "the same", "a straight line")
    for label in (*scaling.SERIES, "seconds", "megabytes", *lines):
        assert f"<!-- {label} -->" in text


def test_what_growth_is_wanted():
    work, seconds = [10, 20, 40], [3.0, 9.0, 15.0]
    assert scaling.wanted("images", work, seconds) == ("in proportion", [3, 6, 12])
    assert scaling.wanted("devices", work, seconds) == ("the same", [3, 3, 3])
    assert scaling.wanted("shots of a run", work, seconds) == ("a straight line", [3, 7, 15])


def test_a_whole_run_gets_a_data_set_of_the_size_that_is_asked_for(tmp_path):
    scaling.data_set("eurosat", classes=3, shots=5, root=tmp_path)
    read = datasets.load(DataSettings(dataset="eurosat", data_root=str(tmp_path)))
    assert list(map(len, read.splits)) == [15, 12, 3]
    files = [tmp_path / "eurosat/2750" / record.path for part in read.splits for record in part]
    assert len({file.read_bytes() for file in files}) == 30  # no image is a copy of another
