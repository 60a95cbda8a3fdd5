"""Which image and which view go into which step, and the batches made of them.

Everything is drawn ahead from the seed, so that any step can be the first after an interruption,
and the same batches are made on any number of devices. A host reads what its own devices take.

Axes: s steps, b images of a batch, n images of a subset, h rows and w columns of cells,
c channels, d channels of the joint space.
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from safe_jax import extraction, parallel
from safe_jax.data import images

PAD = -1  # in place of an image, where a batch is not full


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
    """Batches of the images `image_n` of a bank (or `features.Table`), as planned."""
    steps = zip(plan.image_sb[first_step:], plan.view_sb[first_step:], strict=True)
    return parallel.ahead(
        _bank_batch(bank, image_n, label_n, image_b, view_b, mesh) for image_b, view_b in steps
    )


def in_order(bank, image_n, label_n, batch_size, mesh) -> Iterator[dict]:
    """Batches of the centre crops of the images `image_n`, one after the other."""
    parts = np.split(np.arange(len(image_n)), range(batch_size, len(image_n), batch_size))
    padded = (parallel.pad_to(at_b, batch_size, PAD) for at_b in parts)
    return parallel.ahead(
        _bank_batch(bank, image_n, label_n, at_b, np.zeros_like(at_b), mesh) for at_b in padded
    )


def _bank_batch(bank, image_n, label_n, image_b, view_b, mesh):
    own = parallel.own_rows(mesh, len(image_b))
    row_b = image_n[image_b[own]] * bank.views + view_b[own]
    arrays = {name: x[row_b] for name, x in bank.arrays.items()}
    return parallel.shard_own(mesh, arrays | _labels(label_n, image_b[own]), len(image_b))


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
    own = parallel.own_rows(mesh, batch_size)
    pixels = extraction.load_own(crops, own, model, config)
    for image_b, pixels_bhwc in zip(plan.image_sb[first_step:], pixels, strict=True):
        dense_bhwc, original_bd = extraction.extract_step(
            graphdef,
            params,
            parallel.shard_own(mesh, pixels_bhwc, batch_size),
            jnp.dtype(config.bank_dtype),
        )
        yield {
            "dense_bhwc": dense_bhwc,
            "original_bd": original_bd,
            **parallel.shard(mesh, _labels(label_n, image_b)),
        }
