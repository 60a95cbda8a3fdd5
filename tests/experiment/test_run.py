"""Rows of several data sets in one run, and of several runs in one file."""

import json
import shutil

import jax
import pytest

from configs import benchmark, digits
from safe_jax import report
from safe_jax.data.layouts import LAYOUTS
from safe_jax.experiment import run as experiment
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests import in_process, tiny

NAMES = ("eurosat", "dtd")


@pytest.fixture(scope="module")
def root(tiny_root, tmp_path_factory):
    """The patches as two data sets of the benchmark; the second has half of the test images."""
    root = tmp_path_factory.mktemp("several")
    content = json.loads((tiny_root / "patches" / "split.json").read_text())
    for name in NAMES:
        shutil.copytree(tiny_root / "patches" / "images", root / LAYOUTS[name].image_dir)
        (root / LAYOUTS[name].split_file).write_text(json.dumps(content))
        content["test"] = content["test"][::2]
    return root


def config(root, tiny_root, cache, **changed):
    several = {"dataset": ",".join(NAMES), "image_dir": "", "split_file": "", "templates": ()}
    config = tiny.config(tiny_root, **several, data_root=str(root), cache_dir=str(cache))
    config.update(shots=(2,), seeds=(1, 2), epochs=20)
    config.update(changed)
    return config


def test_data_sets_take_turns_and_have_a_mean(root, tiny_root, tmp_path):
    run = config(root, tiny_root, tmp_path / "cache")
    rows = experiment.run(run, tmp_path / "run")
    assert [(row.dataset, row.method, row.seed) for row in rows] == [
        (name, method, seed)
        for name in NAMES
        for seed in (1, 2)
        for method in ("zero_shot", "safe")
    ]
    assert experiment.run(run, tmp_path / "run") == rows  # kept as they are
    alone = config(root, tiny_root, tmp_path / "cache")
    alone.dataset = "dtd"
    found = experiment.run(alone, tmp_path / "alone")
    assert [row.accuracy for row in found] == [row.accuracy for row in rows[4:]]

    first, second, mean = report.tables(rows).split("\n\n")
    assert first.startswith("eurosat, ")
    assert second.startswith("dtd, ")
    assert mean.startswith("mean of 2 data sets, ")
    accuracy = {(row.dataset, row.method, row.seed): row.accuracy for row in rows}
    by_seed = [sum(accuracy[name, "safe", seed] for name in NAMES) / 2 for seed in (1, 2)]
    assert mean.splitlines()[3].startswith("SAFE ")
    assert f"{sum(by_seed) / 2:.2f}" in mean.splitlines()[3]
    # Other images and weights than those of the published figures, under the same names.
    assert "published" not in first + second + mean


def test_every_data_set_is_read_before_any_work(root, tiny_root, tmp_path):
    run = config(root, tiny_root, tmp_path / "cache")
    run.dataset = "eurosat,food101"
    with pytest.raises(InputError, match=r"split_zhou_Food101\.json: no such split file"):
        experiment.run(run, tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_knobs_of_one_data_set_are_not_for_several(root, tiny_root, tmp_path):
    run = config(root, tiny_root, tmp_path / "cache", split_file="x.json")
    with pytest.raises(InputError, match=r"config\.split_file is for one data set"):
        experiment.run(run, tmp_path / "run")


def test_the_benchmark_has_every_data_set_and_every_method():
    named = benchmark.get_config().dataset.split(",")
    assert sorted(named) == sorted(LAYOUTS.keys() - {"digits"})
    assert benchmark.get_config().methods == tuple(METHODS)
    assert digits.get_config().methods == tuple(METHODS)


def test_a_method_joins_the_rows_of_others_and_its_knobs_are_its_own(tiny_config, tmp_path):
    tiny_config.update(shots=(2,), methods=("zero_shot", "safe"), epochs=1)
    first = experiment.run(tiny_config, tmp_path)
    tiny_config.methods = ("safe", "tip_adapter")
    second = experiment.run(tiny_config, tmp_path)
    assert second[0] == first[1]  # to the second: not computed again
    tiny_config.tip_adapter.a_steps = 3
    third = experiment.run(tiny_config, tmp_path)
    assert [row.method for row in third] == ["safe", "tip_adapter"]
    assert third[0] == first[1]
    assert third[1] != second[1]
    assert third[1].knobs == second[1].knobs | {"a_steps": 3}
    tiny_config.tip_adapter.a_steps = 20
    assert experiment.run(tiny_config, tmp_path) == second
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


def test_other_shots_and_seeds_compile_nothing(tiny_root, tmp_path):
    """But ProLIP's step, whose batch is the whole subset."""
    methods = [name for name in METHODS if name != "prolip"]
    compiled = []

    def run(shots, seed):
        compiled.clear()
        in_process.call_tiny(
            tiny_root, tmp_path / f"{shots}", tmp_path / "cache", shots=f"{shots}", seeds=f"{seed}",
            methods=",".join(methods),
        )  # fmt: skip
        return list(compiled)

    def note(event, duration, **of_program):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(of_program.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        jax.jit(lambda x: x + 1)(1.0)
        assert compiled  # it is noticed
        run(2, 1)
        assert run(5, 2) == []
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_boxes_outside_their_images_are_refused(tiny_config, tiny_root, tmp_path):
    content = json.loads((tiny_root / "patches" / "split.json").read_text())
    inside, outside, *_ = [path for path, *_ in content["test"]]
    content["boxes"] = {inside: [0, 0, 64, 64], outside: [0, 0, 64, 1e6]}
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content))
    tiny_config.update(split_file=str(file), shots=(2,), methods=("zero_shot",))
    with pytest.raises(InputError, match=rf"1 boxes lie outside .*\n  {outside}: \[0") as caught:
        experiment.run(tiny_config, tmp_path / "run")
    assert inside not in str(caught.value)
    assert not (tmp_path / "cache").exists()
