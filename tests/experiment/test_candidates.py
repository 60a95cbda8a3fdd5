"""Rates and decays that validation images choose from, one by one and as a population."""

import json

import pytest

from safe_jax.experiment import run as experiment
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import population


@pytest.fixture
def several(tiny_config):
    """Two seeds, each with two rates and two decays."""
    tiny_config.update(
        shots=(2,), seeds=(1, 2), epochs=2, learning_rates=(1e-3, 3e-3), weight_decays=(0.0, 0.5),
        methods=("safe",),
    )  # fmt: skip
    tiny_config.tip_adapter_f.update(epochs=2, batch_size=8)
    tiny_config.update({group: {"a_steps": 3, "b_steps": 4} for group in ("safe_a", "tip_adapter")})
    return tiny_config


@pytest.fixture
def sizes(monkeypatch):
    """How many members run in each program."""
    found = []
    stack = population.stack
    monkeypatch.setattr(
        population,
        "stack",
        lambda members, *args: found.append(len(members)) or stack(members, *args),
    )
    return found


def test_rows_do_not_depend_on_how_many_run_together(several, sizes, tmp_path):
    alone = experiment.run(several, tmp_path / "alone")
    assert sizes == []
    several.population = 16
    together = experiment.run(several, tmp_path / "together")
    assert sizes == [8]
    for row, wanted in zip(together, alone, strict=True):
        for field in ("method", "shots", "seed", "learning_rate", "weight_decay", "accuracy"):
            assert getattr(row, field) == getattr(wanted, field), field
        assert row.losses == pytest.approx(wanted.losses, rel=1e-5)
    several.population = 3
    assert experiment.run(several, tmp_path / "together") == together  # found again


def test_what_one_method_chose_is_data_to_the_next_and_not_another_program(
    several, sizes, tmp_path
):
    """SAFE-A's alpha is, and which of the slots of a small cache hold an image."""
    several.update(shots=(2, 4), learning_rates=(), weight_decays=(), epochs=1, population=16)
    several.methods = ("safe_a_f",)
    experiment.run(several, tmp_path)
    assert sizes == [4, 4]


def test_the_rate_is_chosen_on_validation_images(tiny_config, tmp_path):
    tiny_config.update(shots=(4,), epochs=20, learning_rates=(0.0, 1e-2), methods=("safe",))
    (row,) = experiment.run(tiny_config, tmp_path)
    assert [candidate.learning_rate for candidate in row.candidates] == [0.0, 1e-2]
    still, moved = (candidate.val_accuracy for candidate in row.candidates)
    assert moved > still
    assert (row.learning_rate, row.weight_decay) == (1e-2, 0.01)
    assert max(row.curve["val"]) == moved
    assert row.selection == "few_shot_val"
    kept = json.loads((tmp_path / "results.jsonl").read_text())
    assert kept["candidates"] == [
        {"learning_rate": rate, "weight_decay": 0.01, "val_accuracy": accuracy}
        for rate, accuracy in ((0.0, still), (1e-2, moved))
    ]


@pytest.mark.parametrize("together", [1, 2])
def test_a_candidate_that_diverges_is_not_chosen(tiny_config, tmp_path, together):
    tiny_config.update(shots=(2,), epochs=3, methods=("safe",), population=together)
    tiny_config.learning_rates = (1e-3, 1e28, 1e29, 1e30)  # two of which diverge together
    (row,) = experiment.run(tiny_config, tmp_path / "one")
    assert row.learning_rate == 1e-3
    diverged = [candidate.val_accuracy is None for candidate in row.candidates]
    assert diverged == [False, True, True, True]
    tiny_config.learning_rates = (1e29, 1e30)
    with pytest.raises(InputError, match="lower the learning rate"):
        experiment.run(tiny_config, tmp_path / "none")


def test_tip_adapters_protocol_stands_in_the_rows(tiny_config, tmp_path):
    tiny_config.update(shots=(2,), seeds=(1, 2), protocol="tip_adapter", epochs=1)
    rows = experiment.run(tiny_config, tmp_path)
    assert [(row.seed, row.protocol) for row in rows] == [(1, "tip_adapter")] * 2
    assert rows[1].selection == "full_val"
