"""The file of rows: what a row is, who may write it, and what is left of a killed run."""

import json
import signal
import subprocess
import sys

import pydantic
import pytest

from safe_jax.experiment.results import Elsewhere, Results, Row, RowKey, read
from safe_jax.runtime.errors import InputError
from tests.fake_run import example, parsed, rows

KEY = RowKey(shots=1, seed=2, images="digest")
COMMON = {
    "config_hash": "c0ffee", "weights": "RN50@1234", "split": "test",
    "protocol": "few_shot",
}  # fmt: skip
# Every field there is, in the order of a line.
FULL = {
    "method": "safe", "shots": 1, "seed": 2, "accuracy": 44.0, "images": "digest",
    "dataset": "pets", **COMMON, "released": "RN50", "classes": 37, "eval_images": 3669,
    "selection": "few_shot_val", "alpha": 0.5, "b": 5.5, "a": 2.0,
    "point": {"mix": 0.25},    "learning_rate": 1e-05, "weight_decay": 0.01,
    "candidates": [
        {"learning_rate": 1e-05, "weight_decay": 0.01, "val_accuracy": 60.0},
        {"learning_rate": 1e30, "weight_decay": 0.01, "val_accuracy": None},
    ],
    "curve": {"alpha": [0.0, 0.5], "val": [30.0, 60.0], "eval": [40.0, 44.0]},
    "val_accuracy": 60.0, "losses": [2.397608518600464, 0.1],
    "examples": [example("examples/there.png")],
    "attention_on_object": {"original": 20.0, "tuned": 30.0, "even": 5.0},
    "seconds": 1.5, "unreadable": 3, "knobs": {"epochs": 3, "eps": None, "trainable": ".*"},
    "tuned_on": "imagenet",
    "new_accuracy": 22.0, "harmonic_mean": 29.3, "closed_set": "no answer",
}  # fmt: skip


def row(**fields):
    few = ("method", "shots", "seed", "accuracy", "images", "dataset", "selection", "seconds")
    return Row(**COMMON, **{name: FULL[name] for name in few} | fields)


def test_a_line_has_every_field_in_its_order_and_reads_back():
    assert set(FULL) == set(Row.model_fields)
    (full,) = parsed([FULL])
    assert full.line() == json.dumps(FULL)
    assert full.candidates[1].val_accuracy is None
    assert full.examples[0].blended.name == "seven"


def test_fields_that_a_row_lacks_are_left_out_but_for_alpha():
    assert json.loads(row().line()) == {
        "method": "safe", "shots": 1, "seed": 2, "accuracy": 44.0, "images": "digest",
        "dataset": "pets", **COMMON, "selection": "few_shot_val", "alpha": None, "seconds": 1.5,
    }  # fmt: skip


def test_base_to_new_says_of_every_method_whether_it_has_an_answer():
    of_closed = row().model_copy(update={"protocol": "base_to_new", "closed_set": "why"})
    found = json.loads(of_closed.line())
    assert {k: found[k] for k in ("new_accuracy", "harmonic_mean", "closed_set")} == {
        "new_accuracy": None, "harmonic_mean": None, "closed_set": "why",
    }  # fmt: skip


def test_numbers_keep_every_bit(tmp_path):
    numbers = [0.1 + 0.2, 1e-05, 1 / 3, 5e-324, 3.4028234663852886e38, 2.397608518600464]
    with Results(tmp_path / "results.jsonl", "pets") as results:
        results.add(row(losses=numbers))
    assert json.loads((tmp_path / "results.jsonl").read_text())["losses"] == numbers
    assert read(tmp_path / "results.jsonl")[0].losses == numbers


def test_unknown_fields_are_ignored(tmp_path):
    newer = FULL | {"new": 1, "candidates": [FULL["candidates"][0] | {"new": [2]}]}
    (tmp_path / "results.jsonl").write_text(json.dumps(newer) + "\n")
    (found,) = read(tmp_path / "results.jsonl")
    assert found == parsed([FULL | {"candidates": FULL["candidates"][:1]}])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": "2"}, "shots='2': a whole number is expected"),
        ({"shots": 0}, "shots=0: at least 1 and at most 1000000 is expected"),
        ({"shots": True}, "shots=True: a whole number is expected"),
        ({"seed": 1.5}, "seed=1.5: a whole number is expected"),
        ({"seed": -1}, "seed=-1: at least 0 and at most 4294967295 is expected"),
        ({"method": " "}, "method=' ': a text that is not blank is expected"),
        ({"method": None}, "method=None: a text is expected"),
        ({"accuracy": 100.5}, "accuracy=100.5: at least 0 and at most 100 is expected"),
        ({"accuracy": float("nan")}, "accuracy=nan: a finite number is expected"),
        ({"accuracy": float("inf")}, "accuracy=inf: a finite number is expected"),
        ({"accuracy": "40"}, "accuracy='40': a number is expected"),
        ({"accuracy": None}, "accuracy=None: a number is expected"),
        ({"seconds": -0.5}, "seconds=-0.5: at least 0 is expected"),
        ({"alpha": 1.5}, "alpha=1.5: at least 0 and at most 1 is expected"),
        ({"losses": 1.0}, "losses=1.0: a list is expected"),
        ({"losses": [1.0, "x"]}, "losses[1]='x': a number is expected"),
        ({"losses": [1.0, float("inf")]}, "losses[1]=inf: a finite number is expected"),
        (
            {"curve": {"alpha": [0.0], "eval": [1.0, 2.0]}},
            'curve={"alpha": [0.0], "eval": [1.0, 2.0]}: lists of equal length are expected',
        ),
        ({"candidates": [{"learning_rate": 1.0}]}, "candidates[0].weight_decay is missing"),
        (
            {"candidates": [{"learning_rate": 1.0, "weight_decay": 0.0}], "learning_rate": None},
            "beside candidates, learning_rate and weight_decay are expected",
        ),
        ({"losses": [1e308]}, "losses[0]=1e+308: at least -1e+39 and at most 1e+39 is expected"),
        (
            {"point": {"mix": -1e308}},
            "point.mix=-1e+308: at least -1e+39 and at most 1e+39 is expected",
        ),
        (
            {"curve": {"alpha": [1e308]}},
            "curve.alpha[0]=1e+308: at least -1e+39 and at most 1e+39 is expected",
        ),
        ({"split": "$x"}, "split='$x': one of test, val is expected"),
        ({"config_hash": "../x"}, "config_hash='../x': letters and digits are expected"),
        (
            {"classes": 10**400},
            f"classes=1{'0' * 56}...: at least 1 and at most 1000000000 is expected",
        ),
        ({"eval_images": 0}, "eval_images=0: at least 1 and at most 1000000000 is expected"),
        ({"dataset": "a\x00b"}, "dataset='a\\x00b': a text without NUL is expected"),
        ({"knobs": [1]}, "knobs=[1]: an object is expected"),
        (
            {"attention_on_object": {"tuned": -1.0}},
            "attention_on_object.tuned=-1.0: at least 0 and at most 100 is expected",
        ),
        ({"examples": [{"image": "x"}]}, "examples[0].label is missing (and 3 more)"),
        (
            {"examples": [FULL["examples"][0] | {"attention": {"original": [[1.0]]}}]},
            "examples[0].attention.tuned is missing",
        ),
        (
            {"examples": [FULL["examples"][0] | {"attention": {"original": [[1], []]}}]},
            "examples[0].attention.original[1]=[]: at least 1 values are expected (and 1 more)",
        ),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(tmp_path, change, message):
    file = tmp_path / "results.jsonl"
    file.write_text(f"{json.dumps(FULL)}\n{json.dumps(FULL | change)}\n")
    expected = f"{file}, line 2: {message}; mend or remove the line"
    with pytest.raises(InputError) as raised:
        read(file)
    assert str(raised.value) == expected
    with pytest.raises(InputError) as raised:
        Results(file, "pets")
    assert str(raised.value) == expected
    with pytest.raises(InputError, match="line 2"):  # not that another run has the file
        Results(file, "pets")


def test_a_row_is_valid_when_it_is_made():
    with pytest.raises(pydantic.ValidationError, match="at most 100 is expected"):
        row(accuracy=101.0)


def test_an_unfinished_line_is_not_read_and_is_cut_off_on_opening(tmp_path):
    file = tmp_path / "results.jsonl"
    whole = json.dumps(FULL) + "\n"
    file.write_text(whole + whole[:-1])
    assert read(file) == parsed([FULL])
    assert file.read_text() == whole + whole[:-1]  # a run may be writing it
    with Results(file, "pets") as results:
        results.add(row(seed=3))
    assert file.read_text() == whole + row(seed=3).line() + "\n"


def test_a_row_is_in_the_file_before_add_returns(tmp_path):
    with Results(tmp_path / "results.jsonl", "pets") as results:
        for seed in (1, 2):
            results.add(row(seed=seed))
            assert [found.seed for found in read(tmp_path / "results.jsonl")][-1] == seed


def test_rows_are_found_by_method_subset_knobs_and_data_set(tmp_path):
    file = tmp_path / "results.jsonl"
    knobs = {"epochs": 3, "steps": (1, 2)}
    with Results(file, "pets", **COMMON) as results:
        results.add(row(knobs=knobs))
        results.add(row(method="zero_shot"))
    with Results(file, "pets", **COMMON) as results:
        assert results.find("safe", KEY, knobs) == read(file)[0]
        assert results.find("zero_shot", KEY, {}) == read(file)[1]
        assert results.find("safe", KEY, {}) is None
        assert results.find("safe", KEY, {"epochs": 4}) is None
        assert results.find("safe", KEY._replace(seed=1), knobs) is None
        assert results.find("safe", KEY._replace(images="other"), knobs) is None
        assert results.find("safe", KEY, knobs, "flowers") is None
    for field in COMMON:  # rows of other experiments in the same file
        with Results(file, "pets", **COMMON | {field: "other"}) as results:
            assert results.find("zero_shot", KEY, {}) is None


def test_transfers_are_written_before_the_main_row_and_not_twice(tmp_path):
    file = tmp_path / "results.jsonl"
    (main,) = parsed([{k: v for k, v in FULL.items() if k != "tuned_on"}])
    with Results(file, "pets", **COMMON) as results:
        results.add_all(main, {"pets_v2": Elsewhere(30.0, 2, 5), "pets_a": Elsewhere(20.0, 2, 4)})
    found = read(file)
    assert [(one.dataset, one.accuracy, one.tuned_on) for one in found] == [
        ("pets_v2", 30.0, "pets"), ("pets_a", 20.0, "pets"), ("pets", 44.0, None),
    ]  # fmt: skip
    assert found[2] == main
    assert json.loads(found[0].line()) == {
        name: value
        for name, value in (FULL | {"dataset": "pets_v2", "tuned_on": "pets"}).items()
        if name not in ("candidates", "curve", "val_accuracy", "losses", "examples")
        and name != "attention_on_object"
        and name not in ("new_accuracy", "harmonic_mean", "closed_set")
    } | {"accuracy": 30.0, "classes": 2, "eval_images": 5}

    first, *_ = file.read_text().splitlines(keepends=True)
    file.write_text(first)  # killed after the first transfer
    with Results(file, "pets", **COMMON) as results:
        results.add_all(main, {"pets_v2": Elsewhere(30.0, 2, 5), "pets_a": Elsewhere(20.0, 2, 4)})
        assert results.find("safe", KEY, main.knobs, "pets_a") == found[1]
    assert read(file) == found


def test_a_file_is_written_by_one_run_at_a_time(tmp_path):
    file = tmp_path / "run" / "results.jsonl"
    with Results(file, "pets"):
        with pytest.raises(InputError) as raised:
            Results(file, "pets")
        assert str(raised.value) == (
            f"another run is writing {file}: wait for it, or choose another --workdir"
        )
    with Results(file, "pets") as results:  # the first is done
        results.add(row())
    assert len(read(file)) == 1


def test_a_killed_run_leaves_no_lock(tmp_path):
    file = tmp_path / "results.jsonl"
    script = (
        "import sys, pathlib; from safe_jax.experiment.results import Results\n"
        "results = Results(pathlib.Path(sys.argv[1]), 'pets'); print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="another run is writing"):
            Results(file, "pets")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with Results(file, "pets") as results:
        results.add(row())
    assert len(read(file)) == 1


def test_rows_of_older_versions_are_read(tmp_path):
    """Without protocol, images or alpha; whole numbers where fractions may be."""
    old = {k: v for k, v in rows()[1].items() if k not in ("images", "alpha")} | {"accuracy": 44}
    (tmp_path / "results.jsonl").write_text(json.dumps(old) + "\n")
    (found,) = read(tmp_path / "results.jsonl")
    assert (found.protocol, found.images, found.alpha, found.accuracy) == (None, None, None, 44.0)


def test_a_directory_or_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="absent: no such directory; name the --workdir of a run"):
        read(tmp_path / "absent" / "results.jsonl")
    with pytest.raises(InputError, match=r"holds no results\.jsonl: name the --workdir of a run"):
        read(tmp_path / "results.jsonl")
