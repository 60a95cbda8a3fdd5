"""Accuracy and loss of a method over its grid, on the images of a view.

Axes: b images of a batch, n images of a view, k classes, g... points of a grid, in as many axes as
it has.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.bank import batches
from safe_jax.bank.view import View
from safe_jax.methods.contract import Batch, Method, Params
from safe_jax.runtime import devices


class Reader(NamedTuple):
    """How views are read for evaluation: the devices, and about how many images at a time."""

    mesh: jax.sharding.Mesh
    batch_size: int = 256

    def batches(self, view: View) -> Iterator[Batch]:
        return batches.in_order(view, self.batch_size, self.mesh)


class Measured(NamedTuple):
    """Accuracy in per cent and mean loss at every point of a grid, `(g...)`."""

    accuracy: np.ndarray
    loss: np.ndarray

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.loss).all())


@functools.partial(jax.jit, static_argnames="method")
def eval_step(
    params: Params, context: Any, batch: Batch, axes: Sequence[jax.Array],
    among_k: jax.Array | None, *, method: Method,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Right answers and summed loss at every point of a grid, `(g...)`, and how many rows count.

    Args:
        axes: the values on each axis of the grid.
        among_k: bool, the classes allowed as answers; None allows all.
    """
    # Each device sums its rows, point after point, and only the sums of all points go from device
    # to device: to wait for all devices at every point would take longer than everything else.
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
        # The label of a row that only fills the batch up may not be allowed: its loss is infinite.
        loss_b = jnp.where(batch["mask_b"] > 0, loss_b, 0)
        return partial_sum(right_b * batch["mask_b"]), partial_sum(loss_b)

    right, loss = measure(method.logits(params, context, batch), axes)
    return right.sum(-1), loss.sum(-1), batch["mask_b"].sum()


def _is_right(logits_bk, label_b):
    """Whether `argmax` is the label. On a CPU two `max` calls are 20 times faster than `argmax`."""
    label_logit_b = jnp.take_along_axis(logits_bk, label_b[:, None], 1)[:, 0]
    before_bk = jnp.arange(logits_bk.shape[1]) < label_b[:, None]
    highest_before_b = jnp.where(before_bk, logits_bk, -jnp.inf).max(1)
    # Of equal logits the first counts.
    return (label_logit_b == logits_bk.max(1)) & (label_logit_b > highest_before_b)


def evaluate(
    method: Method, params: Params, context: Any, grid: Mapping[str, np.ndarray], view: View,
    reader: Reader,
) -> Measured:  # fmt: skip
    """Accuracy and loss at every point of the grid, over all images of a view.

    Args:
        grid: the values on each axis by its name, in the order in which the method's logits take
            them.
    """
    axes = [jnp.asarray(values, jnp.float32) for values in grid.values()]
    sums = [
        eval_step(params, context, batch, axes, view.among_k, method=method)
        for batch in reader.batches(view)
    ]
    right, loss, count = (
        np.sum([devices.fetch(part).astype(np.float64) for part in parts], axis=0)
        for parts in zip(*sums, strict=True)
    )
    return Measured(100 * right / count, loss / count)


def logits_at(
    method: Method, params: Params, context: Any, batch: Batch, point: Sequence[Any]
) -> jax.Array:
    """Logits `(b, k)` at a point of the method's grid."""
    logits = method.logits(params, context, batch)
    for value in point:
        logits = logits(value)
    return logits
