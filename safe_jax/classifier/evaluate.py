"""Accuracy and loss of a method over its grid, on the images of a view.

Axes: b images of a batch, n images of a view, k classes, g... points of a grid, in as many axes as
it has.
"""

import dataclasses
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

POINTS_AT_ONCE = 32


class Reader(NamedTuple):
    """How views are read for evaluation: the devices, and about how many images at a time."""

    mesh: jax.sharding.Mesh
    batch_size: int = 256

    @property
    def at_once(self) -> int | None:
        """Points of a grid: a CPU's caches like one, a GPU has kernels to start for each."""
        return None if self.mesh.devices.flat[0].platform == "cpu" else POINTS_AT_ONCE

    def batches(self, view: View) -> Iterator[Batch]:
        return batches.in_order(view, self.batch_size, self.mesh)


class Measured(NamedTuple):
    """Accuracy in per cent and mean loss at every point of a grid, `(g...)`."""

    accuracy: np.ndarray
    loss: np.ndarray

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.loss).all())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Axes:
    """The values on each axis of a grid; `at_once` points of the last are computed together."""

    values: Sequence[jax.typing.ArrayLike]
    at_once: int | None = dataclasses.field(default=None, metadata={"static": True})


@functools.partial(jax.jit, static_argnames="method")
def eval_step(
    params: Params, context: Any, batch: Batch, axes: Axes, among_k: jax.Array | None, *,
    method: Method,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Right answers and summed loss at every point of a grid, `(g...)`.

    Args:
        among_k: bool, the classes allowed as answers; None allows all.
    """

    def measure(logits, values):
        if values:  # one point after the other: logits of g x b x k can take gigabytes
            return jax.lax.map(
                lambda value: measure(logits(value), values[1:]),
                values[0],
                batch_size=axes.at_once if len(values) == 1 else None,
            )
        return _sums_of_parts(logits, batch, among_k)

    right, loss = measure(method.logits(params, context, batch), axes.values)
    return right.sum(-1), loss.sum(-1)


@functools.partial(jax.jit, static_argnames="method")
def logits_step(
    params: Params, context: Any, batch: Batch, point: Sequence[float], *, method: Method
) -> jax.Array:
    """Logits `(b, k)` at a point of the method's grid, of the arrays that the method takes."""
    logits = method.logits(params, context, batch)
    for value in point:
        logits = logits(value)
    return logits


@jax.jit
def _tally(logits_bk, batch, among_k):
    """`eval_step` of logits that are there: one program for all methods and points."""
    right, loss = _sums_of_parts(logits_bk, batch, among_k)
    return right.sum(), loss.sum()


def _sums_of_parts(logits_bk, batch, among_k):
    """Right answers and summed loss of the rows on each device.

    Only the sums of all points of a grid go from device to device: to wait for all devices at every
    point would take longer than everything else.
    """
    label_b, mask_b = batch["label_b"], batch["mask_b"]
    parts = math.gcd(len(label_b), jax.device_count())
    if among_k is not None:
        logits_bk = jnp.where(among_k, logits_bk, -jnp.inf)
    right_b = _is_right(logits_bk, label_b)
    loss_b = optax.softmax_cross_entropy_with_integer_labels(logits_bk, label_b)
    # The label of a row that only fills the batch up may not be allowed: its loss is infinite.
    loss_b = jnp.where(mask_b > 0, loss_b, 0)
    return (right_b * mask_b).reshape(parts, -1).sum(1), loss_b.reshape(parts, -1).sum(1)


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
    axes = Axes([np.asarray(values, np.float32) for values in grid.values()], reader.at_once)
    shape = tuple(map(len, grid.values()))

    def sums(batch):
        if math.prod(shape) > 1:
            return eval_step(params, context, batch, axes, view.among_k, method=method)
        arrays = {name: batch[name] for name in method.takes}
        point = [float(values[0]) for values in grid.values()]
        logits_bk = logits_step(params, context, arrays, point, method=method)
        labels = {name: batch[name] for name in ("label_b", "mask_b")}
        return _tally(logits_bk, labels, view.among_k)

    # All are under way before the first is waited for.
    of_batches = [sums(batch) for batch in reader.batches(view)]
    right, loss = (
        np.sum([devices.fetch(part).astype(np.float64) for part in parts], axis=0).reshape(shape)
        for parts in zip(*of_batches, strict=True)
    )
    return Measured(100 * right / len(view), loss / len(view))
