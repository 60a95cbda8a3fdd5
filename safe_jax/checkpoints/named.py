"""Weights that are known by name: made once, by one process, on first use."""

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from safe_jax.runtime import orbax_calls, paths
from safe_jax.runtime.errors import InputError


@contextlib.contextmanager
def lock_missing(directory: pathlib.Path) -> Iterator[bool]:
    """Whether a directory is missing; if so, only this process makes it."""
    if directory.exists():
        yield False
        return
    with paths.lock(directory.with_name(f"{directory.name}.lock")):
        yield not directory.exists()  # another process may have made it while this one waited


def convert(module: str, source: pathlib.Path, converted: pathlib.Path) -> None:
    """Has `python -m module SOURCE CONVERTED` write an Orbax directory. Raises `InputError`.

    In a separate process, because in this one Orbax would wait for all hosts of a run. It runs on
    the CPU, because an accelerator may admit no second process.
    """
    command = [sys.executable, "-m", module, str(source), str(converted)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with orbax_calls.unfinished_removed(converted.parent, converted.name):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InputError(f"{source} was not converted: {done.stderr.strip()}")
