"""Which image and which view go into which step, and the batches made of them.

Everything is drawn ahead from the seed, so that any step can be the first after an interruption,
and the same batches are made on any number of devices. A host reads what its own devices take, or
all rows at first, where these are held on the devices.

Axes: s steps, b images of a batch, n images of a subset, h rows and w columns of cells,
c channels, d channels of the joint space.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from safe_jax.bank import extraction
from safe_jax.data import images
from safe_jax.runtime import devices, hosts

PAD = -1  # in place of an image, where a batch is not full
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


def rows(bank, image_n, label_n, plan) -> dict[str, np.ndarray]:
    """`row_b`, `label_b` and `mask_b` of every step: where in a bank the planned views are."""
    row_sb = np.where(plan.image_sb == PAD, 0, image_n[plan.image_sb] * bank.views + plan.view_sb)
    return {"row_b": row_sb, **_labels(label_n, plan.image_sb)}


def from_bank(bank, image_n, label_n, plan, mesh, first_step=0) -> Iterator[dict]:
    """Batches of the images `image_n` of a bank (or `features.Table`), as planned.

    All planned rows are put on the devices at the start if they fit `device_budget`;
    if not, those of a batch are read while another is worked on.
    """
    planned = rows(bank, image_n, label_n, plan)
    row_n = np.unique(planned["row_b"])
    if _row_bytes(bank) * len(row_n) > device_budget(mesh):
        return devices.prefetch(_read(bank, batch, mesh) for batch in _steps(planned, first_step))
    planned["row_b"] = np.searchsorted(row_n, planned["row_b"]).astype(np.int32)
    return _from_devices(put_rows([(bank, row_n)], mesh), planned, mesh, first_step)


def in_order(bank, image_n, label_n, batch_size, mesh) -> Iterator[dict]:
    """Batches of the centre crops of the images `image_n`, one after the other."""
    steps = -(-len(image_n) // batch_size)
    image_sb = devices.pad_to(np.arange(len(image_n)), steps * batch_size, PAD)
    image_sb = image_sb.reshape(steps, batch_size)
    planned = rows(bank, image_n, label_n, Plan(image_sb, np.zeros_like(image_sb), steps))
    return devices.prefetch(_read(bank, batch, mesh) for batch in _steps(planned))


def _steps(planned, first_step=0):
    for step in range(first_step, len(planned["row_b"])):
        yield {name: x_sb[step] for name, x_sb in planned.items()}


def _read(bank, batch, mesh):
    """A batch of rows read now; each host reads its own."""
    count = len(batch["row_b"])
    own = devices.own_rows(mesh, count)
    batch = {name: x_b[own] for name, x_b in batch.items()}
    row_b = batch.pop("row_b")
    arrays = {name: x[row_b] for name, x in bank.arrays.items()}
    return devices.shard_own(mesh, arrays | batch, count)


def device_budget(mesh) -> int:
    """Bytes of a bank that may be held on every device: a quarter of the memory it has of its own.

    A CPU has none.
    """
    own = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.local_devices]
    return min(hosts.from_all(min(own))) // 4


def put_rows(wanted, mesh) -> dict[str, jax.Array]:
    """Rows of banks, one after the other, on every device; a host has few of them at a time.

    Args:
        wanted: pairs of a bank and the rows of it, in ascending order.
    """
    parts = [
        devices.replicate(mesh, {name: x[part_n] for name, x in bank.arrays.items()})
        for bank, row_n in wanted
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
def _gather(table, row_b):
    return {name: x[row_b] for name, x in table.items()}


def _row_bytes(bank):
    return sum(x.dtype.itemsize * math.prod(x.shape[1:]) for x in bank.arrays.values())


def _labels(label_n, image_b):
    return {
        "label_b": label_n[image_b].astype(np.int32),
        "mask_b": (image_b != PAD).astype(np.float32),
    }


def online(model, image_dir, records, plan, seed, config, mesh, first_step=0) -> Iterator[dict]:
    """Batches of fresh random crops, through the trunk as they are needed.

    The dense maps are rounded as a bank's are, so the two ways differ in the crops alone.
    """
    label_n = np.array([record.label for record in records])
    graphdef, params = extraction.fold(model, mesh)
    batch_size = plan.image_sb.shape[1]
    crops = (
        [
            images.Crop(image_dir / records[image].path, f"{records[image].path} {seed} {step}")
            for image in plan.image_sb[step]
            if image != PAD
        ]
        for step in range(first_step, plan.steps)
    )
    own = devices.own_rows(mesh, batch_size)
    pixels = extraction.load_local(crops, own, model, config)
    for image_b, pixels_bhwc in zip(plan.image_sb[first_step:], pixels, strict=True):
        dense_bhwc, original_bd = extraction.extract_step(
            graphdef,
            params,
            devices.shard_own(mesh, pixels_bhwc, batch_size),
            jnp.dtype(config.bank_dtype),
        )
        yield {
            "dense_bhwc": dense_bhwc,
            "original_bd": original_bd,
            **devices.shard(mesh, _labels(label_n, image_b)),
        }
