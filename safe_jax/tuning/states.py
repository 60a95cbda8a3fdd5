"""States of a tuning on the disk: written every so often, and verified before one is resumed."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
import xxhash
from orbax.checkpoint import v1 as ocp

from safe_jax.runtime import devices, hosts, orbax_calls, paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


class States:
    """The states in a folder, of which the latest is kept. Use it as a context.

    All hosts must call the methods together.
    """

    def __init__(self, folder: Any, every: int):
        self._folder, self._every = folder, every
        self._opened: Any = None  # by Orbax, which takes a while: most tunings end before a save

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self):
        if not self._opened:
            return
        with contextlib.suppress(orbax_calls.FailedError):  # raised when it was saved, once more
            orbax_calls.attempt(self._opened.close)

    def _open(self):
        keeping: Any = ocp.training.preservation_policies.LatestN(1)
        self._opened = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=keeping,
            cleanup_tmp_directories=True,
        )

    def restore(self, content: Any) -> tuple[Any, int]:
        """The latest state and its step; `content` and 0 where there is none.

        One that is damaged is told of and removed: the tuning begins anew.
        """
        if not hosts.on_first(self._folder.exists):
            return content, 0
        found: list[tuple[Any, int]] = []
        if damage := self._damage(self._open):
            self._begin_anew(damage)
            return content, 0
        if damage := self._damage(lambda: found.append(self._read(content))):
            self._begin_anew(damage)
            return content, 0
        return found[0]

    def _damage(self, function: Callable[[], None]) -> str | None:
        """What is damaged on any host, or None. Raises `InputError` where the system refuses."""
        damage = None
        with hosts.raise_together():
            try:
                orbax_calls.attempt(function)
            except orbax_calls.FailedError as error:
                if not error.is_damage:
                    raise InputError(
                        f"the state in {self._folder} cannot be used ({error}): mend that, or set "
                        "another --workdir; the same command goes on"
                    ) from None
                damage = str(error)
        return next(filter(None, hosts.from_all(damage)), None)

    def _begin_anew(self, damage: str) -> None:
        log.warning(
            "the state in %s is damaged, and this tuning begins anew (%s)", self._folder, damage
        )
        self._close()
        self._opened = None
        hosts.on_first(lambda: paths.remove_folder(self._folder))
        hosts.wait("the damaged state is gone")

    def _read(self, content):
        latest = self._opened.latest
        if latest is None:
            return content, 0
        abstract: Any = {
            "content": jax.tree.map(_abstract, content), "checksum": _checksum(content),
        }  # fmt: skip
        restored = self._opened.load(latest, abstract)
        if (_checksum(restored["content"]) != restored["checksum"]).any():
            raise ValueError("its arrays are not those that were written")
        return restored["content"], latest.step

    def is_due(self, step: int) -> bool:
        """Whether a state is to be saved after so many steps: arithmetic, for each step asks."""
        return step % self._every == 0

    def save(self, step: int, content: Any) -> None:
        """Raises `InputError` where it cannot be written."""
        whole: Any = {"content": content, "checksum": _checksum(content)}
        try:
            with orbax_calls.unfinished_removed(self._folder):
                if not self._opened:
                    orbax_calls.attempt(self._open)
                orbax_calls.attempt(lambda: self._opened.save(step, whole, force=True))
        except orbax_calls.FailedError as error:
            raise InputError(
                f"a checkpoint cannot be written in {self._folder} ({error}): make room, or set "
                "another --workdir; the same command goes on"
            ) from None


def _abstract(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _checksum(content: Any) -> np.ndarray:
    """XXH3 of names, shapes and values; Orbax's format has none of the values."""
    hashed = xxhash.xxh3_64()
    for path, x in jax.tree_util.tree_leaves_with_path(content):
        array = devices.fetch(x)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        hashed.update(array.tobytes())
    return np.frombuffer(hashed.digest(), np.uint8)
