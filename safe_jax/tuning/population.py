"""Jobs that are tuned together: one compiled program for many members.

Members differ in the images they see, in learning rate or in weight decay. Their states are stacked
along a first axis, which `vmap` walks, and each has a list of rows of one table that lies on every
device; members are divided between devices and never wait for each other. A member with fewer
steps than others rests at the end: its batches are empty and its rate is 0.

Axes: m members, s steps, b images of a batch.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.methods.contract import Batch, Method
from safe_jax.runtime import devices
from safe_jax.tuning import train


@dataclasses.dataclass(frozen=True)
class Population:
    """All that stays the same from the first step to the last, as a `Stepper` of all members."""

    method: Method
    frozen: train.Frozen
    schedule: train.Schedule
    optimizer: optax.GradientTransformation
    table: dict[str, jax.Array]

    def step(self, state: train.TrainState, batch: Batch) -> tuple[train.TrainState, jax.Array]:
        """A step of every member; the loss of each, `(m,)`."""
        constants = self.frozen, self.schedule, self.table
        return population_step(
            state, constants, batch, method=self.method, optimizer=self.optimizer
        )


@functools.partial(jax.jit, static_argnames=("method", "optimizer"), donate_argnames="state")
def population_step(
    state: train.TrainState, constants: tuple, batch: Batch, *,
    method: Method, optimizer: optax.GradientTransformation,
) -> tuple[train.TrainState, jax.Array]:  # fmt: skip
    """`train.train_step` of every member, on the rows `row_mb` of the arrays in a table.

    Args:
        constants: frozen leaves and schedules of all members, and the table that they share.
    """
    all_frozen, schedules, table = constants

    def member(state, frozen, schedule, batch):
        batch = {name: x[batch["row_b"]] for name, x in table.items()} | batch
        loss, grads = train.loss_and_grads(state.params, frozen, batch, method=method)
        return train.apply_grads(state, grads, schedule, optimizer=optimizer), loss

    return jax.vmap(member)(state, all_frozen, schedules, batch)


def shapes(tree: Any) -> tuple:
    """What has to be equal in trees that are stacked: structure, shapes and types."""
    return jax.tree.structure(tree), tuple((x.shape, x.dtype) for x in jax.tree.leaves(tree))


def stack(
    members: Sequence[tuple[train.TrainState, train.Stepper]],
    table: dict[str, jax.Array],
    mesh: jax.sharding.Mesh,
) -> tuple[train.TrainState, Population]:
    """The states of members that are alike, and the constants of all.

    Args:
        table: arrays by name, on every device, whose rows batches name.

    There are as many as a multiple of the number of devices: the last is repeated.
    """
    states, steppers = zip(*members, strict=True)
    spare = devices.round_up(len(members), mesh) - len(members)
    schedules = [stepper.schedule for stepper in steppers]
    if len(lengths := {len(x.rate_s) for x in schedules}) > 1:
        schedules = [x.as_long_as(max(lengths)) for x in schedules]

    def stacked(trees):
        return _stack(*trees, *trees[-1:] * spare, out=devices.sharded(mesh))

    first = steppers[0]
    population = Population(
        first.method,
        stacked([stepper.frozen for stepper in steppers]),
        stacked(schedules),
        first.optimizer,
        table,
    )
    return stacked(states), population


@functools.partial(jax.jit, static_argnames="out")
def _stack(*trees, out):
    tree = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    return jax.lax.with_sharding_constraint(tree, out)


def batches(
    planned: list[dict[str, np.ndarray]], mesh: jax.sharding.Mesh, first_step: int = 0
) -> Iterator[Batch]:
    """The rows of each step: `row_mb`, `label_mb` and `mask_mb`, as `population_step` takes them.

    Args:
        planned: `row_b`, `label_b` and `mask_b` of every step, `(s, b)`, for each member; steps
            that a member does not have are empty.
    """
    planned = planned + planned[-1:] * (devices.round_up(len(planned), mesh) - len(planned))
    steps = max(len(of_member["mask_b"]) for of_member in planned)

    def stacked(name):
        return np.stack([devices.pad_to(of_member[name], steps) for of_member in planned], axis=1)

    arrays = {name: stacked(name) for name in planned[0]}
    for step in range(first_step, steps):
        yield devices.shard(mesh, {name: x_smb[step] for name, x_smb in arrays.items()})


def params_of(state: train.TrainState, member: int, mesh: jax.sharding.Mesh) -> dict:
    """The parameters of one member, on every device."""
    return _member(state.params, member, out=devices.replicated(mesh))


@functools.partial(jax.jit, static_argnames="out")
def _member(tree, member, *, out):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x[member], out), tree)
