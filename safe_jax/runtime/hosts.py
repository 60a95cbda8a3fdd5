"""Hosts: the processes of one run find each other, agree, and end together.

A run is a single process, or the same command on every host. All hosts compute the same things in
the same order, because a collective that one host skips blocks the others for ever. Only the first
host writes shared files and logs progress.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from safe_jax.runtime import devices, paths
from safe_jax.runtime.errors import InputError, listing

GONE = "a host stopped: start the same command on all hosts again; it goes on where it was"

T = TypeVar("T")

# XLA's errors begin so if another host is gone. Errors of this host's computations begin with
# other codes: INVALID_ARGUMENT, RESOURCE_EXHAUSTED.
_LOST = re.compile("(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL): ")


def count() -> int:
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the host that writes shared files and logs progress."""
    return index() == 0


def prefix() -> str:
    """The beginning of this host's messages; empty on the first host."""
    return "" if is_first() else f"host {index()} of {count()}: "


@dataclasses.dataclass(frozen=True)
class ClusterFlags:
    """How the hosts find each other; with the defaults, there is a single host.

    Args:
        distributed: whether the cluster names the hosts: Cloud TPU, GKE, Slurm, Open MPI.
        coordinator: HOST:PORT of the first host, where the cluster does not name the hosts.
        processes: the number of hosts, given with `coordinator`.
        process_id: the number of this host, from 0 on, given with `coordinator`.
        timeout: seconds without a heartbeat after which a host counts as dead.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    timeout: int = 60

    def is_single(self) -> bool:
        """Whether this is the only host. Raises `InputError` for flags that conflict."""
        given = self.coordinator, self.processes, self.process_id
        if self.distributed and given != (None,) * 3:
            raise InputError(
                "--distributed finds the other hosts by itself: leave --coordinator out"
            )
        if given != (None,) * 3 and None in given:
            raise InputError(
                "--coordinator, --processes and --process_id belong together: give all"
            )
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
            raise InputError(f"--coordinator={self.coordinator}: HOST:PORT is expected")
        return not self.distributed and self.coordinator is None


@contextlib.contextmanager
def cluster(flags: ClusterFlags, patience: int = 300) -> Iterator[None]:
    """Joins all hosts before the block and waits for them after it.

    `patience` is the number of seconds within which all hosts must have started. When a host
    dies, the others print `GONE` and exit with a code that is not 0. Raises `InputError` for flags
    that conflict, and if the hosts do not find each other.
    """
    if flags.is_single():
        yield
        return
    _join(flags, patience)
    dismiss = _watch(f"{prefix()}{GONE}")
    try:
        yield
        wait("all is done")
    except Exception as error:
        if not _is_lost(error):
            raise
        dismiss()
        print(f"error: {prefix()}{GONE} ({_line(error)})", file=sys.stderr, flush=True)
        os._exit(1)  # an ordinary exit would wait for all hosts
    finally:
        dismiss()


def _join(flags: ClusterFlags, patience: int) -> None:
    # JAX's service would catch SIGTERM and report it only at steps. `loop.fit` handles SIGTERM
    # itself, and before and after tuning SIGTERM should end the process as usual.
    jax.config.update("jax_enable_preemption_service", False)
    failure = "the hosts do not find each other"
    dismiss = _watch(f"{failure} in {patience} seconds: start the same command on all of them")
    try:
        jax.distributed.initialize(
            flags.coordinator,
            flags.processes,
            flags.process_id,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=flags.timeout,
            shutdown_timeout_seconds=flags.timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{failure}: {_line(error)}") from error
    finally:
        dismiss()


def _watch(last_words: str) -> Callable[[], None]:
    """Starts a process that prints `last_words` if this process dies; returns how to dismiss it.

    JAX aborts a process when another host is gone, and Python code cannot catch that.
    """
    command = ["sh", "-c", 'read -r word || echo "$0" >&2', f"error: {last_words}"]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss() -> None:
        if watcher.returncode is None:
            watcher.communicate(b"done\n")

    return dismiss


def _is_lost(error: BaseException | None) -> bool:
    """Whether an error, or an error that caused it, says that another host is gone."""
    while error and not _LOST.match(str(error)):
        error = error.__cause__ or error.__context__
    return error is not None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def wait(barrier: str) -> None:
    """Returns once every host has called this with the same name of a barrier."""
    if count() > 1:
        multihost_utils.sync_global_devices(barrier)


def from_all(value: Any) -> list[Any]:
    """Each host's `value`, which must be JSON, in the order of the hosts."""
    if count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    room = 1 << int(lengths.max()).bit_length()  # a power of two, so that few sizes are compiled
    texts = multihost_utils.process_allgather(devices.pad_to(text, room))
    return [json.loads(bytes(text[:length])) for text, length in zip(texts, lengths, strict=True)]


def from_first(value: Any) -> Any:
    """The first host's `value`, which must be JSON."""
    return from_all(value if is_first() else None)[0]


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """Runs the block on every host; if any raised an `InputError` or `OSError`, all raise after it.

    On several hosts, all raise an `InputError` with the messages of all hosts.
    """
    error = None
    try:
        yield
    except (InputError, OSError) as raised:
        if count() == 1:
            raise
        error = raised
    messages = from_all(error and str(error))
    if len(different := set(messages) - {None}) == 1 and None not in messages:
        raise InputError(*different) from error
    if different:
        raise InputError(
            f"{count() - messages.count(None)} of {count()} hosts cannot go on:"
            + listing([f"host {host}: {text}" for host, text in enumerate(messages) if text])
        ) from error


def on_first(function: Callable[[], T]) -> T:
    """Calls `function` on the first host; all hosts return its result, which must be JSON.

    If it raises an `InputError` or `OSError`, all hosts raise.
    """
    with raise_together():
        value = function() if is_first() else None
    return from_first(value)


@functools.cache
def sharing(folder: paths.Path) -> list[int]:
    """The hosts that see the same `folder` as this host, including this host."""
    if count() == 1:
        return [0]
    token = from_first(secrets.token_hex(8))
    files = [folder / f".host-{token}-{host}" for host in range(count())]
    with raise_together():
        folder.mkdir(parents=True, exist_ok=True)
        files[index()].write_text("")
    seen = [host for host, file in enumerate(files) if file.exists()]
    wait("every host has looked for the files")
    files[index()].unlink()
    return seen


def writes_in(folder: paths.Path) -> bool:
    """Whether this host writes in `folder`: only the first of the hosts that share it does."""
    return sharing(folder)[0] == index()


def check_shared(folder: paths.Path) -> None:
    """Raises `InputError` unless all hosts see the first host's `folder`."""
    if apart := [host for host, ok in enumerate(from_all(0 in sharing(folder))) if not ok]:
        raise InputError(
            f"--workdir {folder} is another folder on host {', '.join(map(str, apart))} than on "
            "host 0: all hosts must see one, on a shared disk or in a bucket (gs://...)"
        )


class StopSignal:
    """Whether any host received a request to stop; all hosts learn of it before the same step.

    `requests` is a list to which a signal handler of this host appends.
    """

    def __init__(self, requests: list):
        self._requests = requests
        self._pending: jax.Array | None = None

    def __call__(self) -> bool:
        """Whether any host had a request at the last call; on a single host, whether it has now.

        On several hosts the answer is a step late, so as not to wait for the devices.
        """
        if count() == 1:
            return bool(self._requests)
        answer, self._pending = self._pending, _any(bool(self._requests))
        return answer is not None and bool(answer)

    def final(self) -> bool:
        """Whether any host has a request now."""
        return any(from_all(bool(self._requests)))


def _any(flag: bool) -> jax.Array:
    mesh = devices.make_mesh()
    flags = devices.shard(mesh, np.full(mesh.size, flag))
    return _reduce_any(flags)


@jax.jit
def _reduce_any(flags: jax.Array) -> jax.Array:
    return jnp.any(flags)
