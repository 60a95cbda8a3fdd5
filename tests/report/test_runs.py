"""Which rows of a directory belong together."""

import pytest

from safe_jax.report import runs
from safe_jax.runtime.errors import InputError
from tests.fake_run import put, rows


def accuracies(experiment, method="safe"):
    return [experiment.accuracies(method, shots) for shots in experiment.shots]


def test_directories_of_one_name_have_their_paths_as_names(tmp_path):
    directories = [put(tmp_path / parent / "run", rows()) for parent in "ab"]
    assert [one.name for one in runs.load(directories)] == [str(path) for path in directories]


def test_an_experiment_is_a_config_hash_and_a_data_set(tmp_path):
    """The one that was written to last comes first."""
    transfer = [row | {"dataset": "pets_v2", "tuned_on": "pets"} for row in rows()]
    found = [*rows(config_hash="beef"), *rows(), *transfer, rows(config_hash="beef")[0]]
    experiments = runs.load([put(tmp_path / "run", found, {"beef": {"epochs": 5}})])
    assert [one.name for one in experiments] == [
        "run beef", "run c0ffee on pets_v2", "run c0ffee",
    ]  # fmt: skip
    assert [len(one.rows) for one in experiments] == [12, 12, 12]
    assert [one.config for one in experiments] == [{"epochs": 5}, None, None]


def test_a_later_row_replaces_one_of_the_same_subset(tmp_path):
    found = rows(seeds=(1,))
    later = found[-1] | {"accuracy": 12.0, "images": "new"}
    (experiment,) = runs.load([put(tmp_path / "run", [*found, later])])
    assert accuracies(experiment) == [[43.0], [12.0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"losses": [1.0]}, "the seeds of 'safe' with 2 shots have losses of other lengths"),
        (
            {"curve": {"alpha": [0.0, 0.5], "eval": [1.0, 2.0]}},
            "the seeds of 'safe' with 2 shots have curves at other alphas",
        ),
    ],
)
def test_seeds_that_have_no_mean_are_refused(tmp_path, edit, message):
    found = rows()
    found[-1] |= edit
    with pytest.raises(InputError, match=message):
        runs.load([put(tmp_path / "run", found)])


def test_rows_of_other_knobs_are_left_out(tmp_path):
    """One seed of a method was run again with fewer epochs: a mean must not mix the two."""
    safe = [row | {"knobs": {"epochs": 3}} for row in rows() if row["method"] == "safe"]
    again = safe[-1] | {"knobs": {"epochs": 2}, "losses": [2.0, 1.0], "accuracy": 12.0}
    (experiment,) = runs.load([put(tmp_path / "run", [*safe, again])])
    assert accuracies(experiment) == [[12.0]]
