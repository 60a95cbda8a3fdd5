"""Devices: one mesh axis, `data`. Parameters are on every device, batches are cut between them.

The devices may be of several hosts: each of these puts what belongs on its own devices there.
"""

import collections
import concurrent.futures
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from safe_jax.runtime.errors import InputError


def make_mesh(devices=None) -> jax.sharding.Mesh:
    """All devices (or those given) in a row.

    Raises `InputError` where they are of several hosts that did not join.
    """
    devices = devices or jax.devices()
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise InputError(
            f"there are {jax.process_count()} hosts: start the command on each with --distributed"
        )
    # Auto, for explicit axes (the default since JAX 0.9) refuse to mix replicated and cut operands.
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh) -> NamedSharding:
    """Cut along the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(mesh, tree):
    """Puts a tree of arrays, of which every host has the same, on every device."""
    sharding = replicated(mesh)

    def put(x):
        if sharding.is_fully_addressable or getattr(x, "sharding", None) == sharding:
            return jax.device_put(x, sharding)
        # `device_put` would first compare the values of all hosts, at the cost of a broadcast.
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def own_rows(mesh, count: int) -> np.ndarray:
    """Which rows of a batch of `count` go to this host's devices, in ascending order."""
    cuts = sharded(mesh).addressable_devices_indices_map((count,)).values()
    return np.sort(np.concatenate([np.arange(count)[cut] for cut in cuts]))


def shard_own(mesh, tree, count: int):
    """Cuts a batch of `count` rows along its first axis, a multiple of the number of devices.

    Every host passes its `own_rows` alone.
    """
    rows = own_rows(mesh, count)

    def put(x):
        def of_device(index):
            start, stop, _ = index[0].indices(count)
            first = np.searchsorted(rows, start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((count, *x.shape[1:]), sharded(mesh), of_device)

    return jax.tree.map(put, tree)


def shard(mesh, tree):
    """`shard_own` for hosts that have the whole batch."""
    (count,) = {len(x) for x in jax.tree.leaves(tree)}
    if len(rows := own_rows(mesh, count)) < count:
        tree = jax.tree.map(lambda x: x[rows], tree)
    return shard_own(mesh, tree, count)


def fetch(x) -> np.ndarray:
    """The whole of an array, wherever its parts are; all hosts are to ask for it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def prefetch(items: Iterator, depth: int = 2) -> Iterator:
    """The same items; a thread makes the next `depth` of them while one is worked on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        under_way = collections.deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := under_way.popleft().result()) is not None:
            under_way.append(pool.submit(next, items, None))
            yield item


def round_up(count: int, mesh) -> int:
    """The least multiple of the number of devices that is not below `count`."""
    return -(-count // mesh.size) * mesh.size


def pad_to(rows: np.ndarray, count: int, value=0) -> np.ndarray:
    """Appends rows of `value` until there are `count`."""
    return np.pad(
        rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1), constant_values=value
    )
