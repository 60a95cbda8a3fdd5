"""`fit`: a job and a recipe to tuned parameters; `fit_all`: many, one by one or together.

Axes: s steps, b images of a batch.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from safe_jax.bank import batches
from safe_jax.bank.view import View
from safe_jax.methods.contract import Batch, Method, Params, Recipe, Start
from safe_jax.runtime import devices
from safe_jax.tuning import loop, population, train


class TrainImages(Protocol):
    """Labelled images to tune on: a `View`, or `FreshCrops`."""

    views: int

    @property
    def count(self) -> int: ...

    def batches(
        self, plan: batches.Plan, mesh: jax.sharding.Mesh, first_step: int = 0
    ) -> Iterator[Batch]: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """A method's start, the images that it tunes on, and the seed of their order.

    `key` distinguishes the job from others, for whoever names folders of checkpoints.
    """

    start: Start
    images: TrainImages
    seed: int
    key: Any = None

    def plan(self, recipe: Recipe, mesh: jax.sharding.Mesh) -> batches.Plan:
        """Which image and which view go into which step."""
        return batches.plan(
            self.images.count,
            self.images.views,
            recipe.batch_size or self.images.count,
            recipe.epochs,
            self.seed,
            mesh.size,
        )


class Member(NamedTuple):
    """A job and one of the recipes that it is tuned with."""

    job: Job
    recipe: Recipe


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where members that run in one program keep their state, and every how many steps."""

    folder: Callable[[Sequence[Member]], pathlib.Path]
    every: int = 500

    @classmethod
    def in_folder(cls, folder: pathlib.Path, every: int = 500) -> "Checkpoints":
        return cls(lambda _: folder, every)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A method after its last step, or as it started where nothing is tuned.

    `params` are all its parameters, the frozen ones among them; `losses_s` is the loss of every
    step. Of several candidates, rate and decay of the recipe tell one from the others.
    """

    method: Method
    params: Params
    context: Any
    losses_s: np.ndarray | None = None
    recipe: Recipe | None = None
    seconds: float = 0.0

    @property
    def diverged(self) -> bool:
        return self.losses_s is not None and not np.isfinite(self.losses_s).all()

    @property
    def epoch_losses(self) -> np.ndarray | None:
        """The mean loss of every epoch."""
        if self.losses_s is None or self.recipe is None:
            return None
        return self.losses_s.reshape(self.recipe.epochs, -1).mean(1)


def untuned(start: Start, mesh: jax.sharding.Mesh) -> Tuned:
    """A method of which nothing is tuned, on every device."""
    params, context = devices.replicate(mesh, (start.params, start.context))
    return Tuned(start.method, params, context)


def fit(job: Job, recipe: Recipe, mesh: jax.sharding.Mesh, checkpoints: Checkpoints) -> Tuned:
    """Tunes a job by a recipe.

    Raises `InputError` where the recipe's pattern matches no parameter, `loop.DivergedError` where
    a loss is not finite.
    """
    (tuned,) = fit_all([Member(job, recipe)], 1, mesh, checkpoints)
    return tuned


def fit_all(
    members: Sequence[Member], at_a_time: int, mesh: jax.sharding.Mesh, checkpoints: Checkpoints,
    keep_diverged: bool = False,
) -> list[Tuned]:  # fmt: skip
    """Tunes every member; as many as `at_a_time` in one program, if they are alike in all shapes.

    Raises `loop.DivergedError` where no member of a program kept a finite loss; with
    `keep_diverged`, these come back with losses that are not finite.
    """
    alike: dict[Any, list[int]] = {}
    for number, member in enumerate(members):
        alike.setdefault(_kind(member, mesh), []).append(number)
    tuned = {}
    for numbers in alike.values():
        for first in range(0, len(numbers), at_a_time):
            chunk = numbers[first : first + at_a_time]
            of_chunk = [members[number] for number in chunk]
            tuned |= zip(chunk, _run(of_chunk, mesh, checkpoints, keep_diverged), strict=True)
    return [tuned[number] for number in range(len(members))]


def start_steps(
    start: Start, recipe: Recipe, plan: batches.Plan, mesh: jax.sharding.Mesh
) -> tuple[train.TrainState, train.Stepper]:
    """The state before the first step, and the steps' constants; steps consume the state."""
    schedule = train.Schedule.of(recipe, plan.steps, plan.steps_per_epoch)
    optimizer = train.make_optimizer(recipe.trainable, recipe.b1, recipe.b2, recipe.eps)
    labels = train.label_params(start.params, recipe.trainable)
    params, context, schedule = devices.replicate(mesh, (start.params, start.context, schedule))
    trained, frozen = train.split_params(params, labels)
    state = train.first_state(trained, params, optimizer=optimizer)
    stepper = train.Stepper(start.method, train.Frozen(frozen, context), schedule, optimizer)
    return state, stepper


def _kind(member: Member, mesh) -> tuple:
    """What has to be equal for members to run together: what is compiled in, and all shapes."""
    job, recipe = member
    count = job.images.count
    width = devices.round_up(batches.full_size(recipe.batch_size or count, count), mesh)
    columns = None
    if isinstance(job.images, View):
        arrays = job.images.arrays.items()
        columns = tuple((name, x.dtype, x.shape[1:]) for name, x in arrays)
    return job.start.method, width, columns, *population.shapes(job.start[1:])


def _run(members, mesh, checkpoints, keep_diverged):
    """Members that run in one program."""
    began = time.perf_counter()
    plans = [member.job.plan(member.recipe, mesh) for member in members]

    def start_all():
        pairs = zip(members, plans, strict=True)
        return [start_steps(job.start, recipe, plan, mesh) for (job, recipe), plan in pairs]

    started = start_all()
    steppers = [stepper for _, stepper in started]
    run = _run_together if len(members) > 1 else _run_alone
    folder = checkpoints.folder(members)
    try:
        params, losses = run(members, plans, started, mesh, folder, checkpoints.every)
    except loop.DivergedError:
        if not keep_diverged:
            raise
        params = [state.params for state, _ in start_all()]
        losses = [np.full(plan.steps, np.nan) for plan in plans]
    seconds = (time.perf_counter() - began) / len(members)
    return [
        Tuned(
            stepper.method,
            train.join_params(trained, stepper.frozen.params),
            stepper.frozen.context,
            losses_s,
            member.recipe,
            seconds,
        )
        for member, stepper, trained, losses_s in zip(
            members, steppers, params, losses, strict=True
        )
    ]


def _run_alone(members, plans, started, mesh, folder, every):
    """One member; its batches come from the bank as they are needed."""
    ((job, _),), (plan,), ((state, stepper),) = members, plans, started
    make_batches = functools.partial(job.images.batches, plan, mesh)
    state, losses = loop.run_steps(state, stepper, plan.steps, make_batches, folder, every)
    return [state.params], [losses]


def _run_together(members, plans, started, mesh, folder, every):
    """A population; all rows that its members need lie on the devices from the start."""
    table, planned = _table([member.job.images for member in members], plans, mesh)
    state, steps = population.stack(started, table, mesh)
    started.clear()  # their arrays are in the stack
    total_steps = max(plan.steps for plan in plans)
    make_batches = functools.partial(population.batches, planned, mesh)
    state, losses = loop.run_steps(state, steps, total_steps, make_batches, folder, every)
    params = [population.params_of(state, n, mesh) for n in range(len(members))]
    return params, [losses[: plan.steps, n] for n, plan in enumerate(plans)]


def _table(views: Sequence[View], plans: Sequence[batches.Plan], mesh):
    """The rows that members need, and the places of each member's planned rows among them.

    Views with equal keys have equal arrays: their rows are held once.
    """
    planned = [batches.rows(view, plan) for view, plan in zip(views, plans, strict=True)]
    by_key: dict[str, list[int]] = {}
    for number, view in enumerate(views):
        by_key.setdefault(view.key, []).append(number)
    wanted, offset = [], 0
    for numbers in by_key.values():
        row_n = np.unique(np.concatenate([planned[n]["row_b"].ravel() for n in numbers]))
        wanted.append((views[numbers[0]], row_n))
        for n in numbers:
            places = offset + np.searchsorted(row_n, planned[n]["row_b"])
            planned[n]["row_b"] = places.astype(np.int32)
        offset += len(row_n)
    return batches.put_rows(wanted, mesh), planned
