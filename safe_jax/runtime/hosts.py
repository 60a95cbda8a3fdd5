"""Hosts: the processes of one run find each other, agree, and end together.

A run is one process, or the same command on every host. All compute the same things in the same
order, for a collective that one of them skips blocks the others for ever; the first alone writes
what all can see, and tells how it goes.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError, listing

GONE = "a host stopped: start the same command on all hosts again; it goes on where it was"

# How an error of XLA's begins where a host is gone that others wait for. One that is this host's
# own begins otherwise: INVALID_ARGUMENT, RESOURCE_EXHAUSTED.
_LOST = re.compile("(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL): ")


def count() -> int:
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the host that writes and tells."""
    return index() == 0


def prefix() -> str:
    """What this host's messages begin with; nothing on the first, which alone tells others."""
    return "" if is_first() else f"host {index()} of {count()}: "


@contextlib.contextmanager
def cluster(
    distributed: bool, coordinator, processes, process_id, timeout: int, patience: int = 300
):
    """A run with all its hosts, found at its start and waited for at its end.

    Args:
        distributed: whether the cluster tells who they are: Cloud TPU, GKE, Slurm, Open MPI.
        coordinator: address and port of the first host, where the cluster tells nothing.
        processes: how many hosts there are, and `process_id` which of them this is, from 0 on.
        timeout: the seconds after which a host that is silent is given up.
        patience: the seconds in which all are to have started.

    When a host dies, the others say `GONE` and exit with a code that is not 0. Raises `InputError`
    for flags that do not go together, and where hosts do not find each other.
    """
    given = [coordinator, processes, process_id]
    if not distributed and given == [None] * 3:
        yield
        return
    if distributed and given != [None] * 3:
        raise InputError("--distributed finds the other hosts by itself: leave --coordinator out")
    if not distributed and None in given:
        raise InputError("--coordinator, --processes and --process_id belong together: give all")
    # JAX would keep SIGTERM for those who ask for it at every step; `loop.fit` has a way of its
    # own, and before and after tuning SIGTERM is to end a process as ever.
    jax.config.update("jax_enable_preemption_service", False)
    apart = "the hosts do not find each other"
    dismiss = _watch(f"{apart} in {patience} seconds: start the same command on all of them")
    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{apart}: {_line(error)}") from error
    finally:
        dismiss()
    dismiss = _watch(f"{prefix()}{GONE}")
    try:
        yield
        wait("all is done")
    except Exception as error:
        if not _is_lost(error):
            raise
        dismiss()
        print(f"error: {prefix()}{GONE} ({_line(error)})", file=sys.stderr, flush=True)
        os._exit(1)  # the ordinary way out waits for all hosts
    finally:
        dismiss()


def _watch(last_words):
    """Has a process say `last_words` when this one dies; returns a function that calls it off.

    JAX aborts a process whose fellows are gone, which no Python code can see coming.
    """
    command = ["sh", "-c", 'read -r word || echo "$0" >&2', f"error: {last_words}"]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss():
        if watcher.returncode is None:
            watcher.communicate(b"done\n")

    return dismiss


def _is_lost(error):
    """Whether an error, or what led to it, is that of a host that is gone."""
    while error and not _LOST.match(str(error)):
        error = error.__cause__ or error.__context__
    return error is not None


def _line(error):
    return " ".join(str(error).split())


def wait(what: str) -> None:
    """Returns once every host is here."""
    if count() > 1:
        multihost_utils.sync_global_devices(what)


def from_all(value) -> list:
    """What each host has for `value`, which is plain as JSON is."""
    if count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    room = 1 << int(lengths.max()).bit_length()  # a power of two: few sizes are compiled for
    texts = multihost_utils.process_allgather(devices.pad_to(text, room))
    return [json.loads(bytes(text[:length])) for text, length in zip(texts, lengths, strict=True)]


def from_first(value):
    """What the first host has for `value`, which is plain as JSON is."""
    return from_all(value if is_first() else None)[0]


@contextlib.contextmanager
def raise_together():
    """What every host does by itself: what one raises for the user is raised on all, afterwards."""
    error = None
    try:
        yield
    except (InputError, OSError) as raised:
        if count() == 1:
            raise
        error = raised
    said = from_all(error and str(error))
    if len(told := set(said) - {None}) == 1 and None not in said:
        raise InputError(*told) from error
    if told:
        raise InputError(
            f"{count() - said.count(None)} of {count()} hosts cannot go on:"
            + listing([f"host {host}: {text}" for host, text in enumerate(said) if text])
        ) from error


def on_first(function):
    """What `function` returns on the first host, plain as JSON is; what it raises, on all."""
    with raise_together():
        value = function() if is_first() else None
    return from_first(value)


@functools.cache
def sharing(folder) -> list[int]:
    """The hosts that see the same `folder` as this one, itself among them."""
    if count() == 1:
        return [0]
    token = from_first(secrets.token_hex(8))
    own, *_ = files = [folder / f".host-{token}-{host}" for host in (index(), *range(count()))]
    with raise_together():
        folder.mkdir(parents=True, exist_ok=True)
        own.write_text("")
    seen = [host for host, file in enumerate(files[1:]) if file.exists()]
    wait("every host has seen whose files are there")
    own.unlink()
    return seen


def writes_in(folder) -> bool:
    """Whether this host is to write in `folder`: the first of those that share it."""
    return sharing(folder)[0] == index()


def check_shared(folder) -> None:
    """Raises `InputError` where not all hosts see the folder that the first sees."""
    if apart := [host for host, ok in enumerate(from_all(0 in sharing(folder))) if not ok]:
        raise InputError(
            f"--workdir {folder} is another folder on host {', '.join(map(str, apart))} than on "
            "host 0: all hosts must see one, on a shared disk or in a bucket (gs://...)"
        )


class StopSignal:
    """Whether any host was asked to stop; all hear it before the same step.

    `asked` is a list that becomes non-empty where this host is.
    """

    def __init__(self, asked: list):
        self.asked = asked
        self.under_way = None

    def __call__(self) -> bool:
        """What was asked until the last call; with one host, until now."""
        if count() == 1:
            return bool(self.asked)
        answer, self.under_way = self.under_way, _any(bool(self.asked))
        return answer is not None and bool(answer)  # a step late: the devices are not waited for

    def final(self) -> bool:
        """What was asked until now."""
        return any(from_all(bool(self.asked)))


def _any(flag):
    mesh = devices.make_mesh()
    flags = devices.shard(mesh, np.full(mesh.size, flag))
    return _reduce_any(flags)


@jax.jit
def _reduce_any(flags):
    return jnp.any(flags)
