"""Jobs that are tuned together: each gives what it gives alone."""

import dataclasses

import jax
import numpy as np
import pytest

from safe_jax.bank import batches
from safe_jax.methods.contract import Recipe
from safe_jax.runtime import devices
from safe_jax.tuning import fit, population
from safe_jax.tuning.fit import Checkpoints, Job, Member
from safe_jax.tuning.loop import DivergedError
from tests.safe_run import Run

RATES, DECAYS = (1e-3, 3e-3), (0.0, 0.5)


@pytest.fixture
def mesh():
    return devices.make_mesh(jax.devices()[:2])


@pytest.fixture
def members(model, text_kd, maps_view):
    """Twenty and eight images, two seeds, and two rates and decays on each."""
    start = Run(model, text_kd, maps_view).start
    few = dataclasses.replace(
        maps_view, image_n=maps_view.image_n[:8], label_n=maps_view.label_n[:8]
    )
    recipe = Recipe(epochs=2, batch_size=8, warmup_epochs=0.0)
    return [
        Member(
            Job(start, view, seed),
            recipe.model_copy(update={"learning_rate": rate, "weight_decay": decay}),
        )
        for view in (maps_view, few)
        for seed in (1, 2)
        for rate in RATES
        for decay in DECAYS
    ]


@pytest.fixture
def fit_all(mesh, tmp_path):
    """`fit.fit_all` with folders of the test's, and how many members ran in each program."""

    def run(members, at_a_time, name="run", every=500, **options):
        sizes = []

        def folder(of_program):
            sizes.append(len(of_program))
            return tmp_path / name / str(len(sizes))

        checkpoints = Checkpoints(folder, every)
        return fit.fit_all(members, at_a_time, mesh, checkpoints, **options), sizes

    return run


def test_members_have_the_losses_and_parameters_that_they_have_alone(members, fit_all):
    alone, sizes = fit_all(members, 1, "alone")
    assert sizes == [1] * 16
    together, sizes = fit_all(members, 16, "together")
    assert sizes == [16]
    for one, other, member in zip(alone, together, members, strict=True):
        np.testing.assert_allclose(other.losses_s, one.losses_s, rtol=1e-5, err_msg=str(member[1]))
        assert other.recipe == one.recipe == member.recipe
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=0.01, atol=1e-4),
            other.params, one.params,
        )  # fmt: skip
    assert len({float(one.losses_s[-1]) for one in alone}) > 12  # members do differ


def test_no_more_than_asked_run_at_a_time(members, fit_all):
    few, sizes = fit_all(members[:5], 3)
    assert sizes == [3, 2]
    assert [tuned.recipe for tuned in few] == [member.recipe for member in members[:5]]


def test_members_of_other_shapes_run_apart(members, fit_all):
    """A batch of another width is another program; another rate or number of steps is not."""
    narrow = [
        Member(job, recipe.model_copy(update={"batch_size": 4})) for job, recipe in members[:2]
    ]
    mixed = [members[0], narrow[0], members[1], narrow[1]]
    tuned, sizes = fit_all(mixed, 16)
    assert sizes == [2, 2]
    assert [len(one.losses_s) for one in tuned] == [6, 10, 6, 10]


def test_rows_of_views_with_equal_keys_are_held_once(members, fit_all, monkeypatch):
    held = []
    put_rows = batches.put_rows
    monkeypatch.setattr(
        batches, "put_rows", lambda wanted, mesh: held.append(wanted) or put_rows(wanted, mesh)
    )
    apart = dataclasses.replace(members[-1].job.images, key="other")
    other = Member(dataclasses.replace(members[-1].job, images=apart), members[-1].recipe)
    fit_all([members[0], members[-1], other], 16)
    ((shared, own),) = held
    assert [len(row_n) for _, row_n in (shared, own)] == [20, 8]


def test_goes_on_where_it_was_cut_off(members, fit_all, monkeypatch):
    whole, _ = fit_all(members[:3], 3, "whole", every=2)
    make_batches = population.batches
    firsts = []

    def dying(planned, mesh, first_step):
        firsts.append(first_step)
        for step, batch in enumerate(make_batches(planned, mesh, first_step), first_step):
            if len(firsts) == 1 and step == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(population, "batches", dying)
    with pytest.raises(KeyboardInterrupt):
        fit_all(members[:3], 3, "cut", every=2)
    again, _ = fit_all(members[:3], 3, "cut", every=2)
    assert firsts == [0, 2]
    for one, wanted in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.losses_s, wanted.losses_s)
        jax.tree.map(np.testing.assert_array_equal, one.params, wanted.params)


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_members_that_diverge_are_kept_or_stop_the_run(members, fit_all, at_a_time):
    job, recipe = members[0]
    rates = (1e-3, 1e29, 1e30)
    several = [Member(job, recipe.model_copy(update={"learning_rate": rate})) for rate in rates]
    tuned, _ = fit_all(several, at_a_time, keep_diverged=True)
    assert [one.diverged for one in tuned] == [False, True, True]
    with pytest.raises(DivergedError, match=r"the loss is nan at step \d+: lower the"):
        fit_all(several[1:], at_a_time, "again")
