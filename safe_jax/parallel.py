"""Devices: one mesh axis, `data`. Parameters are on every device, batches are cut between them."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def make_mesh(devices=None) -> jax.sharding.Mesh:
    """All devices (or those given) in a row."""
    devices = devices or jax.devices()
    # Auto, for explicit axes (the default since JAX 0.9) refuse to mix replicated and cut operands.
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def divided(mesh) -> NamedSharding:
    """Cut along the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(mesh, tree):
    """Puts a tree of arrays on every device."""
    return jax.device_put(tree, replicated(mesh))


def shard(mesh, tree):
    """Cuts host arrays along their first axis, a multiple of the number of devices.

    Every host passes the same whole arrays, and puts its share on its devices.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, divided(mesh), lambda index: x[index]), tree
    )


def round_up(count: int, mesh) -> int:
    """The least multiple of the number of devices that is not below `count`."""
    return -(-count // mesh.size) * mesh.size


def pad_to(rows: np.ndarray, count: int, value=0) -> np.ndarray:
    """Appends rows of `value` until there are `count`."""
    return np.pad(
        rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1), constant_values=value
    )
