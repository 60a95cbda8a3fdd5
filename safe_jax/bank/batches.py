"""Which image and which view go into which step, and the batches made of them.

Everything is drawn ahead from the seed, so that any step can be the first after an interruption,
and the same batches are made on any number of devices. A host reads the rows that go to its own
devices, or all rows at the start, where these are kept on the devices.

Axes: s steps, b images of a batch, n images of a view, h rows and w columns of cells, c channels,
d channels of the joint space.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from safe_jax.runtime import devices, hosts

if TYPE_CHECKING:
    from safe_jax.bank.view import View

Batch = dict[str, jax.Array]

PAD = -1  # in place of an image, where a batch is not full
SMALLEST_FULL = 256  # images; a batch that is no larger has one shape for every number of images
READ_AT_ONCE = 512  # rows on their way to the devices: 100 MB of RN50's


@dataclasses.dataclass(frozen=True)
class Plan:
    """`image_sb` and `view_sb`: image (or `PAD`) and view of each row of each step."""

    image_sb: np.ndarray
    view_sb: np.ndarray
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return len(self.image_sb)


def full_size(batch_size: int, count: int) -> int:
    """The size of a batch for `count` images.

    A small one is filled up, so that what was compiled for it serves other numbers of images; a
    large one is cut to all images, for rows that count for nothing would fill the memory.
    """
    return min(batch_size, max(SMALLEST_FULL, count))


def plan(
    count: int, views: int, batch_size: int, epochs: int, seed: int, multiple_of: int = 1
) -> Plan:
    """Every epoch a new order of `count` images, each in a view drawn for it.

    The last batch of an epoch is filled up with `PAD`, which counts for nothing; so is every
    batch, up to a multiple of `multiple_of`, the number of devices.

    Raises `ValueError` where nothing would be trained on.
    """
    if min(count, batch_size, epochs) < 1:
        raise ValueError(f"no batch from {count} images, batch size {batch_size}, {epochs} epochs")
    batch_size = full_size(batch_size, count)
    order = np.random.RandomState(seed)
    view = np.random.RandomState([seed, 1])  # a separate one: more views must not change the order
    steps = -(-count // batch_size)
    image_sb = np.full((epochs, steps * batch_size), PAD)
    view_sb = np.zeros_like(image_sb)
    for epoch in range(epochs):
        image_sb[epoch, :count] = order.permutation(count)
        view_sb[epoch, :count] = view.randint(views, size=count)
    short = -batch_size % multiple_of
    return Plan(
        np.pad(image_sb.reshape(-1, batch_size), [(0, 0), (0, short)], constant_values=PAD),
        np.pad(view_sb.reshape(-1, batch_size), [(0, 0), (0, short)]),
        steps,
    )


def rows(view: "View", plan: Plan) -> dict[str, np.ndarray]:
    """`row_b`, `label_b` and `mask_b` of every step, `(s, b)`: rows of the view's arrays."""
    is_image_sb = plan.image_sb != PAD
    image_sb = np.where(is_image_sb, plan.image_sb, 0)  # any row will do where the mask is 0
    row_sb = view.image_n[image_sb] * view.views + plan.view_sb
    return {"row_b": np.where(is_image_sb, row_sb, 0), **labels(view.labels, plan.image_sb)}


def labels(label_n: np.ndarray, image_b: np.ndarray) -> dict[str, np.ndarray]:
    """`label_b` and `mask_b` of planned images; the mask of a `PAD` is 0, and so is its label."""
    is_image_b = image_b != PAD
    label_b = np.where(is_image_b, label_n[image_b], 0).astype(np.int32)
    return {"label_b": label_b, "mask_b": is_image_b.astype(np.float32)}


def from_view(
    view: "View", plan: Plan, mesh: jax.sharding.Mesh, first_step: int = 0
) -> Iterator[Batch]:
    """Batches of a view's images, as planned.

    All planned rows are put on the devices at the start if they fit `device_budget`; if not, the
    rows of a batch are read while another is worked on.
    """
    planned = rows(view, plan)
    row_n = np.unique(planned["row_b"])
    if _row_bytes(view) * len(row_n) > device_budget(mesh):
        return devices.prefetch(_read(view, batch, mesh) for batch in _steps(planned, first_step))
    planned["row_b"] = np.searchsorted(row_n, planned["row_b"]).astype(np.int32)
    return _from_devices(put_rows([(view, row_n)], mesh), planned, mesh, first_step)


def in_order(view: "View", batch_size: int, mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Batches of the centre crops of a view's images, one after the other.

    Batches are as large as the least multiple of the number of devices not below `full_size`.
    """
    batch_size = devices.round_up(full_size(batch_size, len(view)), mesh)
    steps = -(-len(view) // batch_size)
    image_sb = devices.pad_to(np.arange(len(view)), steps * batch_size, PAD)
    image_sb = image_sb.reshape(steps, batch_size)
    planned = rows(view, Plan(image_sb, np.zeros_like(image_sb), steps))
    return devices.prefetch(_read(view, batch, mesh) for batch in _steps(planned))


def _steps(planned, first_step=0):
    for step in range(first_step, len(planned["row_b"])):
        yield {name: x_sb[step] for name, x_sb in planned.items()}


def _read(view, batch, mesh):
    """A batch whose rows are read now; each host reads the rows of its own devices."""
    count = len(batch["row_b"])
    local = devices.own_rows(mesh, count)
    batch = {name: x_b[local] for name, x_b in batch.items()}
    row_b = batch.pop("row_b")
    arrays = {name: x[row_b] for name, x in view.arrays.items()}
    return devices.shard_own(mesh, arrays | batch, count)


def device_budget(mesh: jax.sharding.Mesh) -> int:
    """Bytes of a bank that may lie on every device: a quarter of the device's own memory.

    It is 0 for a CPU, which has no memory of its own.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    return min(hosts.from_all(min(limits))) // 4


def put_rows(
    wanted: Sequence[tuple["View", np.ndarray]], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
    """Rows of views' arrays, one view after the other, on every device.

    Rows are copied in chunks, so a host holds at most `READ_AT_ONCE` of them.

    Args:
        wanted: pairs of a view and the rows of its arrays, in ascending order.
    """
    parts = [
        devices.replicate(mesh, {name: x[part_n] for name, x in view.arrays.items()})
        for view, row_n in wanted
        for part_n in np.split(row_n, range(READ_AT_ONCE, len(row_n), READ_AT_ONCE))
    ]
    return _joined(parts, out=devices.replicated(mesh))


@functools.partial(jax.jit, static_argnames="out")
def _joined(parts, *, out):
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return jax.lax.with_sharding_constraint(joined, out)


def _from_devices(table, planned, mesh, first_step):
    """Batches of the rows of a table that every device has."""
    for batch in _steps(planned, first_step):
        batch = devices.shard(mesh, batch)
        yield _gather(table, batch.pop("row_b")) | batch


@jax.jit
def _gather(table: Mapping[str, jax.Array], row_b):
    return {name: x[row_b] for name, x in table.items()}


def _row_bytes(view):
    return sum(x.dtype.itemsize * math.prod(x.shape[1:]) for x in view.arrays.values())
