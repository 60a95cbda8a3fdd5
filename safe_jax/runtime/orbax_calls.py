"""Calls of Orbax, whose failures become one line: files that are damaged, a disk that is full."""

import contextlib
import functools
import gc
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from safe_jax.runtime import paths

T = TypeVar("T")

_LONGEST = 200  # characters of a reason: TensorStore's have the settings of the whole store
_OF_SYSTEM = OSError, MemoryError, jax.errors.JaxRuntimeError
_GONE = FileNotFoundError, NotADirectoryError, IsADirectoryError, EOFError
# How TensorStore, which raises but ValueError, says that the system refuses.
_SIGNS = (
    "No space left on device", "Disk quota exceeded", "File too large", "Permission denied",
    "Read-only file system",
    "Too many open files", "Input/output error", "PERMISSION_DENIED", "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)  # fmt: skip


class FailedError(Exception):
    """Orbax could not do it; the message is a line that says why.

    `is_damage` tells files that are not as they were written from a system that refuses: a full
    disk, no permission, a device without memory.
    """

    def __init__(self, reason: str, is_damage: bool):
        super().__init__(reason)
        self.is_damage = is_damage


def attempt(function: Callable[[], T]) -> T:
    """Returns what the function returns; whatever it raises becomes a `FailedError`."""
    with _unsaid():
        try:
            return function()
        except Exception as error:  # of many kinds, for files that are damaged or a full disk
            failed = _failed(error)
        gc.collect()
    _drop_late_ones()
    raise failed


def _drop_late_ones() -> None:
    """Nothing is printed of reads that end later still, when their event loop is gone."""
    if getattr(sys.excepthook, "func", None) is not _told_unless_late:
        sys.excepthook = functools.partial(_told_unless_late, sys.excepthook)
    if getattr(sys.unraisablehook, "func", None) is not _unraisable_told_unless_late:
        hook = functools.partial(_unraisable_told_unless_late, sys.unraisablehook)
        sys.unraisablehook = hook


def _told_unless_late(
    hook: Callable[..., object], kind: type[BaseException], error: BaseException, trace: Any
) -> None:
    if not _is_late(error):
        hook(kind, error, trace)


def _unraisable_told_unless_late(hook: Callable[..., object], unraisable: Any) -> None:
    if not _is_late(unraisable.exc_value):
        hook(unraisable)


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Nothing is printed of the reads that Orbax leaves behind when one of them fails.

    It reads all arrays at once and reports the first that fails; of each of the others a traceback
    would be printed below the line that says all, when the garbage is collected.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    disabled, hook = [logger.disabled for logger in loggers], sys.unraisablehook
    sys.unraisablehook = lambda _: None
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*was never awaited", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
        for logger, before in zip(loggers, disabled, strict=True):
            logger.disabled = before


def _failed(error: Exception) -> FailedError:
    """What an exception, and those that it was raised from, say of the failure."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    texts = [str(one).strip() or repr(one) for one in chain]
    by_type = any(isinstance(one, _OF_SYSTEM) and not isinstance(one, _GONE) for one in chain)
    by_text = [sign for sign in _SIGNS if any(sign in text for text in texts)]
    line = by_text[0] if by_text else texts[-1].splitlines()[0][:_LONGEST]
    return FailedError(line, is_damage=not by_type and not by_text)


@contextlib.contextmanager
def unfinished_removed(folder: Any, name: str = "") -> Iterator[None]:
    """Where the block raises, what Orbax left half-written in a folder is removed.

    Args:
        name: how the names of the checkpoints begin that are meant; all by default.
    """
    try:
        yield
    except BaseException:
        for found in folder.iterdir() if folder.is_dir() else ():
            if found.name.startswith(name) and ".orbax-checkpoint-tmp" in found.name:
                paths.remove_folder(found)
        raise
