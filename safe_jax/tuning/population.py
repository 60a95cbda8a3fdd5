"""Tunings that run together: one compiled program for many members.

Members differ in the images they see, in learning rate or in weight decay. Their states are stacked
along a first axis, which `vmap` walks, and each has its own list of rows of one table that lies on
every device; members are divided between devices and never wait for each other. A member with fewer
steps than others rests at the end: its batches are empty and its rate is 0.

Axes: m members, s steps, b images of a batch.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.runtime import devices
from safe_jax.tuning import train


@dataclasses.dataclass(frozen=True)
class Population:
    """What stays the same from the first step to the last, as a `train.Tuning` of all members."""

    method: object
    frozen: train.Frozen
    schedule: train.Schedule
    optimizer: optax.GradientTransformation
    table: dict

    def step(self, state, batch):
        """A step of every member; the loss of each, `(m,)`."""
        return population_step(
            state, self.frozen, self.schedule, self.table, batch,
            method=self.method, optimizer=self.optimizer,
        )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("method", "optimizer"), donate_argnames="state")
def population_step(state, frozen, schedule, table, batch, *, method, optimizer):
    """`train.train_step` of every member, on the rows `row_mb` of the arrays in `table`."""

    def member(state, frozen, schedule, batch):
        batch = {name: x[batch["row_b"]] for name, x in table.items()} | batch
        loss, grads = train.loss_and_grads(state.params, frozen, batch, method=method)
        return train.apply_grads(state, grads, schedule, optimizer=optimizer), loss

    return jax.vmap(member)(state, frozen, schedule, batch)


def shapes(tree):
    """What has to be equal in trees that are stacked: structure, shapes and types."""
    return jax.tree.structure(tree), tuple((x.shape, x.dtype) for x in jax.tree.leaves(tree))


def stack(members, table, mesh) -> tuple[train.TrainState, Population]:
    """The state of members that are alike, and what they share.

    Args:
        members: a `(state, tuning)` of `train.init` for each.
        table: arrays by name, on every device, whose rows batches name.

    There are as many as a multiple of the number of devices: the last is repeated.
    """
    states, tunings = zip(*members, strict=True)
    spare = devices.round_up(len(members), mesh) - len(members)
    steps = max(len(tuning.schedule.rate_s) for tuning in tunings)

    def stacked(trees):
        return _stack(*trees, *trees[-1:] * spare, out=devices.sharded(mesh))

    schedules = [
        train.Schedule(jnp.pad(x.rate_s, (0, steps - len(x.rate_s))), x.weight_decay)
        for x in (tuning.schedule for tuning in tunings)
    ]
    first = tunings[0]
    shared = Population(
        first.method,
        stacked([tuning.frozen for tuning in tunings]),
        stacked(schedules),
        first.optimizer,
        table,
    )
    return stacked(states), shared


@functools.partial(jax.jit, static_argnames="out")
def _stack(*trees, out):
    tree = jax.tree.map(lambda *x: jnp.stack(x), *trees)
    return jax.lax.with_sharding_constraint(tree, out)


def batches(plans, mesh, first_step: int = 0):
    """The rows of each step: `row_mb`, `label_mb` and `mask_mb`, as `population_step` takes them.

    Args:
        plans: a dict of `row_sb`, `label_sb` and `mask_sb` for each member; steps that a member
            does not have are empty.
    """
    plans = plans + plans[-1:] * (devices.round_up(len(plans), mesh) - len(plans))
    steps = max(len(plan["mask_b"]) for plan in plans)

    def stacked(name):
        return np.stack([devices.pad_to(plan[name], steps) for plan in plans], axis=1)

    arrays = {name: stacked(name) for name in plans[0]}
    for step in range(first_step, steps):
        yield devices.shard(mesh, {name: x_smb[step] for name, x_smb in arrays.items()})


def params_of(state: train.TrainState, member: int, mesh) -> dict:
    """The parameters of one member, on every device."""
    return _member(state.params, member, out=devices.replicated(mesh))


@functools.partial(jax.jit, static_argnames="out")
def _member(tree, member, *, out):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x[member], out), tree)
