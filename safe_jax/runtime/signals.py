"""SIGTERM answered as Ctrl-C is: what was half-written goes, and a line says how to go on."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came. What handles Ctrl-C handles it as well."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Has SIGTERM raise `TerminatedError` in the block, which by itself would end the process.

    In another thread than the main one, which alone may handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(*_: object) -> NoReturn:
    raise TerminatedError


def exit_code(error: KeyboardInterrupt) -> int:
    """That of a process which the signal behind an exception has ended."""
    return 128 + (signal.SIGTERM if isinstance(error, TerminatedError) else signal.SIGINT)
