"""Tunings that run together, and what is chosen among them."""

import json
import re

import numpy as np
import pytest

from configs import default
from safe_jax.classifier import selection
from safe_jax.experiment import knobs
from safe_jax.experiment import run as experiment
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import fit, population


@pytest.fixture
def many(tiny_config):
    """Two numbers of shots and two seeds, each with two rates and two decays."""
    tiny_config.update(
        shots=(2, 4), seeds=(1, 2), epochs=3, learning_rates=(1e-3, 3e-3), weight_decays=(0.0, 0.5),
        methods=("safe",),
    )  # fmt: skip
    tiny_config.tip_adapter_f.update(epochs=2, batch_size=8)
    tiny_config.update({group: {"a_steps": 3, "b_steps": 4} for group in ("safe_a", "tip_adapter")})
    return tiny_config


@pytest.fixture
def noted(monkeypatch):
    """The losses of every member, as they are tuned: by method, shots, seed, rate and decay."""
    found = {}
    tune = fit.tune

    def noting(trials, starts, name, config):
        tuned = tune(trials, starts, name, config)
        for trial, candidates in zip(trials, tuned, strict=True):
            for one in candidates:
                key = name, *trial.key[:2], one.learning_rate, one.weight_decay
                found[key] = one.losses
        return tuned

    monkeypatch.setattr(fit, "tune", noting)
    return found


def test_members_have_the_losses_that_they_have_alone(many, noted, tmp_path, monkeypatch):
    alone_rows = experiment.run(many, tmp_path / "alone")
    alone = dict(noted)
    noted.clear()
    sizes = []
    stack = population.stack

    def counting(members, table, mesh):
        sizes.append(len(members))
        return stack(members, table, mesh)

    monkeypatch.setattr(population, "stack", counting)
    many.population = 16
    rows = experiment.run(many, tmp_path / "together")
    assert sizes == [16]
    assert len(alone) == 4 * 4
    assert noted.keys() == alone.keys()
    for member, losses in alone.items():
        np.testing.assert_allclose(noted[member], losses, rtol=1e-5, err_msg=str(member))
    for row, wanted in zip(rows, alone_rows, strict=True):
        for field in ("method", "shots", "seed", "learning_rate", "weight_decay", "accuracy"):
            assert row[field] == wanted[field], field
    # Rows do not depend on how many run together: they are found again.
    many.population = 3
    assert experiment.run(many, tmp_path / "together") == rows


def test_members_of_other_shapes_run_apart(many, noted, tmp_path, monkeypatch):
    """Keys of 2 and of 4 shots; what one tuning chose is data to the next, not another program."""
    sizes = []
    stack = population.stack
    monkeypatch.setattr(
        population,
        "stack",
        lambda members, *args: sizes.append(len(members)) or stack(members, *args),
    )
    many.update(methods=("safe_a_f",), learning_rates=(), weight_decays=(), population=16)
    experiment.run(many, tmp_path)
    assert sizes == [4, 2, 2]
    assert len(noted) == 2 * 4


def test_goes_on_where_it_was_cut_off(many, tmp_path, monkeypatch):
    many.update(weight_decays=(), population=3, checkpoint_every=2)
    whole = experiment.run(many, tmp_path / "whole")
    batches = population.batches
    firsts = []

    def dying(plans, mesh, first_step):
        firsts.append(first_step)
        for step, batch in enumerate(batches(plans, mesh, first_step), first_step):
            if len(firsts) == 2 and step == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(population, "batches", dying)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(many, tmp_path / "cut")
    cut = experiment.run(many, tmp_path / "cut")
    assert firsts == [0, 0, 2]
    for row, wanted in zip(cut, whole, strict=True):
        assert row | {"seconds": 0} == wanted | {"seconds": 0}


def test_the_rate_is_chosen_on_validation_images(tiny_config, tmp_path):
    tiny_config.update(shots=(4,), epochs=20, learning_rates=(0.0, 2e-3), methods=("safe",))
    (row,) = experiment.run(tiny_config, tmp_path)
    assert [told["learning_rate"] for told in row["candidates"]] == [0.0, 2e-3]
    still, moved = (told["val_accuracy"] for told in row["candidates"])
    assert moved > still
    assert (row["learning_rate"], row["weight_decay"]) == (2e-3, 0.01)
    assert max(row["curve"]["val"]) == moved
    assert row["selection"] == "few_shot_val"
    kept = json.loads((tmp_path / "results.jsonl").read_text())
    assert kept["candidates"] == row["candidates"]


@pytest.mark.parametrize("together", [1, 2])
def test_a_candidate_that_diverges_is_not_chosen(tiny_config, tmp_path, together):
    tiny_config.update(shots=(2,), epochs=3, methods=("safe",), population=together)
    tiny_config.learning_rates = (1e-3, 1e28, 1e29, 1e30)  # two of which diverge together
    (row,) = experiment.run(tiny_config, tmp_path / "one")
    assert row["learning_rate"] == 1e-3
    assert [told["val_accuracy"] is None for told in row["candidates"]] == [False] + 3 * [True]
    tiny_config.learning_rates = (1e29, 1e30)
    with pytest.raises(InputError, match="lower the learning rate"):
        experiment.run(tiny_config, tmp_path / "none")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rates": (1e-3, 1e-3)}, "config.learning_rates=(0.001, 0.001): different"),
        ({"weight_decays": (-1.0,)}, "config.weight_decays=(-1.0,): different numbers, none below"),
        (
            {"learning_rates": (1e-3,), "selection": "fixed"},
            "config.learning_rates are chosen from on validation images",
        ),
        ({"population": 0}, "config.population=0: at least 1 is expected"),
        ({"population": 2, "features": "online"}, "set config.features=bank, or config.population"),
    ],
)
def test_mistakes_are_told(changed, said):
    config = default.get_config()
    config.update(changed)
    with pytest.raises(InputError, match=re.escape(said)):
        knobs.validate(config)


def test_tip_adapters_protocol_is_told_in_the_rows(tiny_config, tmp_path):
    tiny_config.update(shots=(2,), seeds=(1, 2), protocol="tip_adapter", epochs=1)
    rows = experiment.run(tiny_config, tmp_path)
    assert [(row["seed"], row["protocol"]) for row in rows] == [(1, "tip_adapter")] * 2
    assert rows[1]["selection"] == "full_val"


def test_best_takes_the_highest_accuracy_then_the_lowest_loss():
    best = selection.best_index
    assert best([50.0, 60, 60, 60], [0.1, 0.9, 0.7, 0.8]) == (2,)
    assert best([[50.0, 60, 40], [60, 10, 60]], [[0.1, 0.9, 0.1], [0.8, 0.1, 0.7]]) == (1, 2)
