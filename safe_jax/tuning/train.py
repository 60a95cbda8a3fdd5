"""Tuning: state, `train_step`, `eval_step`.

A method (see `methods/safe.py`) says what its parameters are, their loss and their logits; nothing
here knows more of it. Logits may depend on what is chosen on validation images, the axes of a grid:
`method.logits(...)` is then a function of a value on the first axis, what that returns one of a
value on the second, and so on, so that every axis costs only what depends on it.

Axes: b images of a batch, k classes, g... points of a grid, in as many axes as it has.
"""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes. `params` and `opt_state` hold the trained leaves alone."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a step reads but never changes: the other leaves, and what the method has beside."""

    params: dict
    context: object


def label_params(params: dict, trainable: str) -> dict:
    """`train` or `freeze` for each leaf: `train` if its whole path matches the pattern.

    Raises `InputError` where no path does.
    """
    paths = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    labels = jax.tree.map(
        lambda path: "train" if re.fullmatch(trainable, path) else "freeze", paths
    )
    if "train" not in jax.tree.leaves(labels):
        raise InputError(
            f"config.trainable={trainable!r} matches no parameter; choose from:\n  "
            + "\n  ".join(jax.tree.leaves(paths))
        )
    return labels


def split_params(params: dict, labels: dict) -> tuple[dict, dict]:
    """The trained and the frozen leaves: two trees of the same shape, masked where the other is."""

    def only(wanted):
        return jax.tree.map(lambda x, y: x if y == wanted else optax.MaskedNode(), params, labels)

    return only("train"), only("freeze")


def join_params(trained: dict, frozen: dict) -> dict:
    """The inverse of `split_params`."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda t, f: f if is_masked(t) else t, trained, frozen, is_leaf=is_masked)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of every step, and the weight decay: data, so that members may differ."""

    rate_s: jax.Array
    weight_decay: jax.Array

    @classmethod
    def of(cls, config, total_steps: int, steps_per_epoch: int) -> "Schedule":
        """Climbs linearly for `warmup_epochs`, then follows a cosine to zero at `total_steps`."""
        warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), total_steps - 1)
        peak = config.learning_rate
        rate = optax.warmup_cosine_decay_schedule(
            peak / (warmup_steps + 1), peak, warmup_steps, total_steps
        )
        return cls(rate(jnp.arange(total_steps)), jnp.float32(config.weight_decay))


@functools.cache  # one object for each recipe: a step compiled for it serves every subset
def make_optimizer(
    trainable: str, b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """AdamW for the leaves that `trainable` names, nothing for the others.

    Rate and weight decay are entries of its state's `hyperparams`; each step sets them.
    """

    def adamw(learning_rate, weight_decay):
        # The steps below hand in trained leaves only; the labels keep it right for whole trees too.
        return optax.partition(
            {
                "train": optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay),
                "freeze": optax.set_to_zero(),
            },
            functools.partial(label_params, trainable=trainable),
        )

    return optax.inject_hyperparams(adamw)(learning_rate=0.0, weight_decay=0.0)


def loss_and_grads(params, frozen, batch, *, method):
    """The mean loss on `batch`, and its gradients with respect to the trained leaves alone.

    Rows whose `mask_b` is 0 only fill the batch up and count for nothing.
    """

    def loss_fn(trained):
        loss_b = method.loss(join_params(trained, frozen.params), frozen.context, batch)
        return (loss_b * batch["mask_b"]).sum() / jnp.maximum(batch["mask_b"].sum(), 1)

    return jax.value_and_grad(loss_fn)(params)


def apply_grads(state, grads, schedule, *, optimizer) -> TrainState:
    """The state after the optimizer's step; at rate 0 no parameter changes."""
    opt_state = state.opt_state._replace(
        hyperparams={
            "learning_rate": schedule.rate_s[state.step],
            "weight_decay": schedule.weight_decay,
        }
    )
    updates, opt_state = optimizer.update(grads, opt_state, state.params)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)


_loss_and_grads = jax.jit(loss_and_grads, static_argnames="method")
_apply_grads = jax.jit(apply_grads, static_argnames="optimizer", donate_argnames="state")


def train_step(
    state, frozen, schedule, batch, *, method, optimizer
) -> tuple[TrainState, jax.Array]:
    """One step on `batch`, which consumes `state`; returns the new state and the mean loss.

    Two programs: one of both copies the parameters that it is to overwrite, and has copies and
    gradients in memory that the system clears for every step, a sixth of a CPU's time for it.
    """
    loss, grads = _loss_and_grads(state.params, frozen, batch, method=method)
    return _apply_grads(state, grads, schedule, optimizer=optimizer), loss


@functools.partial(jax.jit, static_argnames="method")
def eval_step(params, frozen, batch, axes, among_k, *, method):
    """Right answers and summed loss at every point of a grid, `(g...)`, and how many rows count.

    Args:
        axes: the values on each axis of the grid.
        among_k: the classes among which answers are sought; all where it is None.
    """

    # Each device sums its own rows, point after point, and only the sums of all points go from
    # device to device: to wait for all at every point would take longer than everything else.
    parts = math.gcd(len(batch["label_b"]), jax.device_count())

    def partial_sum(x_b):
        return x_b.reshape(parts, -1).sum(1)

    def measure(logits, axes):
        if axes:  # one point after the other: logits of g x b x k can take gigabytes
            return jax.lax.map(lambda value: measure(logits(value), axes[1:]), axes[0])
        if among_k is not None:
            logits = jnp.where(among_k, logits, -jnp.inf)
        right_b = _is_right(logits, batch["label_b"])
        loss_b = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label_b"])
        return partial_sum(right_b * batch["mask_b"]), partial_sum(loss_b * batch["mask_b"])

    logits = method.logits(join_params(params, frozen.params), frozen.context, batch)
    right, loss = measure(logits, axes)
    return right.sum(-1), loss.sum(-1), batch["mask_b"].sum()


def _is_right(logits_bk, label_b):
    """Whether `argmax` is the label; two maxima take a CPU a twentieth of the time of it."""
    own_b = jnp.take_along_axis(logits_bk, label_b[:, None], 1)[:, 0]
    before_bk = jnp.arange(logits_bk.shape[1]) < label_b[:, None]
    highest_before_b = jnp.where(before_bk, logits_bk, -jnp.inf).max(1)
    return (own_b == logits_bk.max(1)) & (own_b > highest_before_b)  # the first of equals wins


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What stays the same from the first step of a tuning to the evaluation of its result."""

    method: object
    frozen: Frozen
    schedule: Schedule | None
    optimizer: optax.GradientTransformation | None

    def step(self, state, batch):
        """`train_step` of this tuning."""
        return train_step(
            state, self.frozen, self.schedule, batch, method=self.method, optimizer=self.optimizer
        )


def init(method, params, context, config, plan, mesh) -> tuple[TrainState, Tuning]:
    """The state before the first step of what `plan` says; steps consume `params`."""
    trained, frozen = split_params(params, label_params(params, config.trainable))
    optimizer = make_optimizer(config.trainable, config.b1, config.b2, config.eps)
    state = TrainState(jnp.int32(0), trained, optimizer.init(params))
    schedule = Schedule.of(config, plan.steps, plan.steps_per_epoch)
    frozen, schedule = devices.replicate(mesh, (Frozen(frozen, context), schedule))
    return devices.replicate(mesh, state), Tuning(method, frozen, schedule, optimizer)


def as_is(method, params, context, mesh) -> tuple[dict, Tuning]:
    """Parameters and tuning, as `evaluate` takes them, of what is not tuned."""
    params, frozen = split_params(params, jax.tree.map(lambda _: "train", params))
    frozen = devices.replicate(mesh, Frozen(frozen, context))
    return devices.replicate(mesh, params), Tuning(method, frozen, None, None)


def evaluate(
    params: dict, tuning: Tuning, grid, batches, among_k=None
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy in per cent and mean loss at every point of the grid, `(g...)`, over all batches.

    Args:
        grid: the values on each axis by its name, in the order in which the method takes them.
        among_k: as `eval_step` takes it.
    """
    axes = [jnp.asarray(values, jnp.float32) for values in grid.values()]
    sums = [
        eval_step(params, tuning.frozen, batch, axes, among_k, method=tuning.method)
        for batch in batches
    ]
    right, loss, count = (
        np.sum([devices.fetch(part).astype(np.float64) for part in parts], axis=0)
        for parts in zip(*sums, strict=True)
    )
    return 100 * right / count, loss / count
