"""Interrupts a run at a chosen moment: by an exception in this process, by a signal in another.

A moment is a point of the code and the number of the call to it, counted from 1: the interruption
comes right before that call. The command, in a process that sends itself a signal at a moment:

    python -m tests.interrupted POINT CALL SIGNAL MODULE [arguments of the module]
"""

import itertools
import os
import pathlib
import runpy
import signal
import sys

from safe_jax.commands.answers import Answers
from safe_jax.data import images
from safe_jax.experiment.results import Results
from safe_jax.runtime import paths
from safe_jax.tuning import train

POINTS = {
    "image": (images, "load"),  # an image is read: for a bank, for a step, or as a row's example
    "bank": (pathlib.Path, "rename"),  # a bank is whole and gets its name
    "step": (train, "train_step"),
    "row": (Results, "add"),
    "answer": (Answers, "add"),  # a row of a prediction
    "file": (paths, "write"),
}


class Death(BaseException):
    """What no code of a run catches, as none outlives SIGKILL."""


def interrupt(patch, point: str, call: int, end) -> None:
    """Has `end()` called right before call number `call` of a point.

    Args:
        patch: what replaces an attribute, as `setattr` or a test's `monkeypatch.setattr`.
    """
    owner, name = POINTS[point]
    original, numbers = getattr(owner, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(numbers) == call:
            end()
        return original(*args, **kwargs)

    patch(owner, name, interrupted)


def die(patch, point: str, call: int) -> None:
    """Has `Death` raised at a moment of this process."""

    def end():
        raise Death(f"before call {call} of {point}")

    interrupt(patch, point, call, end)


def command(arguments: list[str], point: str, call: int, number: signal.Signals) -> list[str]:
    """`python -m MODULE ...` for a process that sends itself a signal at a moment."""
    python, option, *module = arguments
    assert option == "-m"
    return [python, "-m", "tests.interrupted", point, str(call), number.name, *module]


if __name__ == "__main__":
    _, point, call, number, module, *arguments = sys.argv
    number = signal.Signals[number]
    interrupt(setattr, point, int(call), lambda: os.kill(os.getpid(), number))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
