"""Devices on a mesh with one axis, `data`: parameters are replicated, batches are sharded.

The devices may belong to several hosts; each host puts data on its own devices only.
"""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from safe_jax.runtime.errors import InputError

T = TypeVar("T")


def available() -> list[jax.Device]:
    """Every device, of all hosts. Raises `InputError` where the platform that is asked for is not.

    JAX says so in a `RuntimeError`, or in an `AssertionError` without a word.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise InputError(
            f"JAX_PLATFORMS={wanted}: JAX finds no such device here{reason}; unset it, or install "
            "JAX for the device (the extras cuda, cuda12 and tpu of this package)"
        ) from None


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the given devices, or of all.

    Raises `InputError` if there are several hosts that have not joined.
    """
    devices = devices or available()
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise InputError(
            f"there are {jax.process_count()} hosts: start the command on each with --distributed"
        )
    # Explicit axes, the default since JAX 0.9, refuse to mix replicated and sharded operands.
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Sharded along the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a tree of arrays, equal on all hosts, on every device."""
    sharding = replicated(mesh)

    def put(x):
        if sharding.is_fully_addressable or getattr(x, "sharding", None) == sharding:
            return jax.device_put(x, sharding)
        # `device_put` would first broadcast the values, to compare those of all hosts.
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


@functools.lru_cache(64)
def own_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Indices of the rows of a batch of `count` that are on this host's devices, ascending."""
    cuts = sharded(mesh).addressable_devices_indices_map((count,)).values()
    rows = np.sort(np.concatenate([np.arange(count)[cut] for cut in cuts]))
    rows.setflags(write=False)  # all callers get the same array
    return rows


def shard_own(mesh: Mesh, tree: Any, count: int) -> Any:
    """Shards a batch of `count` rows, of which each host passes only its `own_rows`.

    `count` must be a multiple of the number of devices.
    """
    if sharded(mesh).is_fully_addressable:
        return jax.device_put(tree, sharded(mesh))  # all arrays in one call
    rows = own_rows(mesh, count)

    def put(x):
        def of_device(index):
            start, stop, _ = index[0].indices(count)
            first = np.searchsorted(rows, start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((count, *x.shape[1:]), sharded(mesh), of_device)

    return jax.tree.map(put, tree)


def shard(mesh: Mesh, tree: Any) -> Any:
    """Shards a batch of which each host passes all rows; see `shard_own`."""
    (count,) = {len(x) for x in jax.tree.leaves(tree)}
    if sharded(mesh).is_fully_addressable:
        return shard_own(mesh, tree, count)
    if len(rows := own_rows(mesh, count)) < count:
        tree = jax.tree.map(lambda x: x[rows], tree)
    return shard_own(mesh, tree, count)


def fetch(x: jax.typing.ArrayLike) -> np.ndarray:
    """The whole array, gathered from all hosts; all hosts must call this."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def fetch_all(arrays: Sequence[jax.Array]) -> list[np.ndarray]:
    """As `fetch` of each, with all transfers under way at once."""
    if all(x.is_fully_addressable or x.is_fully_replicated for x in arrays):
        return jax.device_get(list(arrays))
    return [fetch(x) for x in arrays]


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yields the same items; a thread computes up to `depth` of them ahead."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        under_way = collections.deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := under_way.popleft().result()) is not None:
            under_way.append(pool.submit(next, items, None))
            yield item


def round_up(count: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least `count`."""
    return -(-count // mesh.size) * mesh.size


def pad_to(rows: np.ndarray, count: int, value: float = 0) -> np.ndarray:
    """Appends rows filled with `value` until there are `count` rows."""
    return np.pad(
        rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1), constant_values=value
    )
