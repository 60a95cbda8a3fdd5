"""A step of tuning: `train_step`, and what it changes and reads.

A method (see `methods/contract.py`) says what its parameters and their loss are; nothing here knows
more of it.

Axes: s steps, b images of a batch.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.methods.contract import Batch, Method, Params, Recipe
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, listing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes. `params` and `opt_state` hold the trained leaves alone."""

    step: jax.Array
    params: Params
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """All that a step reads but never changes: the other leaves, and the method's context."""

    params: Params
    context: Any


def label_params(params: Params, trainable: str) -> Params:
    """`train` or `freeze` for each leaf: `train` if its whole path matches the pattern.

    Raises `InputError` where no path does.
    """
    paths = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    labels = jax.tree.map(
        lambda path: "train" if schema.matches(trainable, path) else "freeze", paths
    )
    if "train" not in jax.tree.leaves(labels):
        raise InputError(
            f"config.trainable={trainable!r} matches no parameter; choose from:"
            + listing(jax.tree.leaves(paths))
        )
    return labels


def split_params(params: Params, labels: Params) -> tuple[Params, Params]:
    """The trained and the frozen leaves: two trees of one shape, each masked where the other is."""

    def only(wanted):
        return jax.tree.map(lambda x, y: x if y == wanted else optax.MaskedNode(), params, labels)

    return only("train"), only("freeze")


@functools.partial(jax.jit, static_argnames="optimizer")
def first_state(
    trained: Params, params: Params, *, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step: copies of the trained leaves, for steps consume them."""
    return TrainState(jnp.int32(0), jax.tree.map(jnp.copy, trained), optimizer.init(params))


def join_params(trained: Params, frozen: Params) -> Params:
    """The inverse of `split_params`."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda t, f: f if is_masked(t) else t, trained, frozen, is_leaf=is_masked)


_LONGEST_SHARED = 2048  # steps; up to so many, schedules have one shape, and steps one program


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of every step, and the weight decay: arrays, so that jobs may differ.

    Rates of steps that there are not are 0, and fill the array up.
    """

    rate_s: jax.Array | np.ndarray
    weight_decay: jax.Array | np.float32

    @classmethod
    def of(cls, recipe: Recipe, total_steps: int, steps_per_epoch: int) -> "Schedule":
        """Climbs linearly for `warmup_epochs`, then follows a cosine to zero at `total_steps`.

        It is `optax.warmup_cosine_decay_schedule` at every step at once, from `peak / (w + 1)` of w
        warm-up steps on, by NumPy: step by step in JAX it would be a dozen small programs.
        """
        warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), total_steps - 1)
        step_s = np.arange(total_steps)
        climb_s = (step_s + 1) / (warmup_steps + 1)
        after_s = (step_s - warmup_steps) / (total_steps - warmup_steps)
        fall_s = (1 + np.cos(np.pi * after_s)) / 2
        rate_s = recipe.learning_rate * np.where(step_s < warmup_steps, climb_s, fall_s)
        length = -(-total_steps // _LONGEST_SHARED) * _LONGEST_SHARED
        rate_s = np.pad(rate_s.astype(np.float32), (0, length - total_steps))
        return cls(rate_s, np.float32(recipe.weight_decay))

    def as_long_as(self, length: int) -> "Schedule":
        """The same with as many rates; those that are added are 0."""
        return Schedule(jnp.pad(self.rate_s, (0, length - len(self.rate_s))), self.weight_decay)


@functools.cache  # one object for each recipe: a step compiled for it serves every subset
def make_optimizer(
    trainable: str, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """AdamW for the leaves that `trainable` names, nothing for the others.

    Rate and weight decay are entries of its state's `hyperparams`; each step sets them.
    """

    def adamw(learning_rate, weight_decay):
        # The steps below pass trained leaves only; the labels keep it right for whole trees too.
        return optax.partition(
            {
                "train": optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay),
                "freeze": optax.set_to_zero(),
            },
            functools.partial(label_params, trainable=trainable),
        )

    return optax.inject_hyperparams(adamw)(learning_rate=0.0, weight_decay=0.0)


def loss_and_grads(
    params: Params, frozen: Frozen, batch: Batch, *, method: Method
) -> tuple[jax.Array, Params]:
    """The mean loss on `batch`, and its gradients with respect to the trained leaves alone.

    Rows whose `mask_b` is 0 only fill the batch up and count for nothing.
    """

    def loss_fn(trained):
        loss_b = method.loss(join_params(trained, frozen.params), frozen.context, batch)
        return (loss_b * batch["mask_b"]).sum() / jnp.maximum(batch["mask_b"].sum(), 1)

    return jax.value_and_grad(loss_fn)(params)


def apply_grads(
    state: TrainState, grads: Params, schedule: Schedule, *,
    optimizer: optax.GradientTransformation,
) -> TrainState:  # fmt: skip
    """The state after the optimizer's step; at rate 0 no parameter changes."""
    opt_state = state.opt_state._replace(
        hyperparams={
            "learning_rate": schedule.rate_s[state.step],
            "weight_decay": schedule.weight_decay,
        }
    )
    updates, opt_state = optimizer.update(grads, opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state)


_loss_and_grads = jax.jit(loss_and_grads, static_argnames="method")
_apply_grads = jax.jit(apply_grads, static_argnames="optimizer", donate_argnames="state")


def train_step(
    state: TrainState, frozen: Frozen, schedule: Schedule, batch: Batch, *,
    method: Method, optimizer: optax.GradientTransformation,
) -> tuple[TrainState, jax.Array]:  # fmt: skip
    """One step on `batch`, which consumes `state`; returns the new state and the mean loss.

    These are two jitted programs. Fused into one, XLA copies the parameters before it overwrites
    them, and on a CPU zeroing the pages of those copies and of the gradients took a sixth of the
    step.
    """
    loss, grads = _loss_and_grads(state.params, frozen, batch, method=method)
    return _apply_grads(state, grads, schedule, optimizer=optimizer), loss


@dataclasses.dataclass(frozen=True)
class Stepper:
    """All that stays the same from the first step of a tuning to the last."""

    method: Method
    frozen: Frozen
    schedule: Schedule
    optimizer: optax.GradientTransformation

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        """`train_step` of this tuning."""
        return train_step(
            state, self.frozen, self.schedule, batch, method=self.method, optimizer=self.optimizer
        )
