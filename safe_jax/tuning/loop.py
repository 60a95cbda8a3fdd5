"""The loop over steps, which survives being killed and stops on SIGTERM.

Axes: s steps, m members of a population.
"""

import contextlib
import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import numpy as np
import tqdm

from safe_jax.methods.contract import Batch
from safe_jax.runtime import devices, hosts
from safe_jax.runtime.errors import InputError
from safe_jax.tuning.states import States
from safe_jax.tuning.train import TrainState

log = logging.getLogger(__name__)


_BLOCK = 64  # losses that are read together
_AHEAD = 2  # steps that may wait for a device, beside the one that it takes


class DivergedError(InputError):
    """A loss is not finite."""


class Steps(Protocol):
    """A `train.Stepper`, or a `population.Population` with the state of all its members."""

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]: ...


def run_steps(
    state: TrainState, steps: Steps, total_steps: int,
    batches: Callable[[int], Iterator[Batch]], folder: pathlib.Path, every: int,
) -> tuple[TrainState, np.ndarray]:  # fmt: skip
    """Takes `total_steps` steps, from the last checkpoint in `folder` if there is one.

    Args:
        batches: a function from the first step to an iterator over the batches from there on.
        every: how many steps lie between checkpoints.

    Returns the last state and the loss of every step, `(s,)`, or `(s, m)` of m members. Raises
    `DivergedError`, naming the step, where no loss is finite; exits with 143 on SIGTERM, once the
    state is saved.
    """
    losses = np.full((total_steps, *state.step.shape), np.nan, np.float32)
    with (
        _signals_noticed() as signals,
        States(folder, every) as states,
        _Progress(total_steps) as progress,
    ):
        content, first = states.restore({"state": state, "losses": losses})
        state, losses = content["state"], content["losses"]
        if first:
            log.info("resuming at step %d of %d", first, total_steps)

        unread = _Losses(losses, first)
        stop_signal = hosts.StopSignal(signals)
        for step, batch in zip(range(first, total_steps), batches(first), strict=True):
            state, loss = steps.step(state, batch)
            progress.add(step, _images(batch))
            unread.add(loss)
            stop = stop_signal()
            if states.is_due(step + 1) or stop:
                unread.read()
                states.save(step + 1, {"state": state, "losses": losses})
            if stop:
                number = signals[0] if signals else signal.SIGTERM
                log.warning(
                    "%s: stopped after step %d; the same command goes on",
                    signal.Signals(number).name, step + 1,
                )  # fmt: skip
                raise SystemExit(128 + number)
        unread.read()
    if stop_signal.final():  # it came too late for the loop
        raise SystemExit(128 + signal.SIGTERM)
    return state, losses


class _Progress(tqdm.tqdm):
    """A bar of the images that were trained on, which short tunings do not show."""

    def __init__(self, total_steps: int):
        quiet = not hosts.is_first()
        super().__init__(desc="tuning", unit=" images", smoothing=0.1, delay=3, disable=quiet)
        self._total_steps = total_steps

    def add(self, step: int, images: int) -> None:
        """Counts a step of so many images; the first may be any step of the tuning."""
        if self.total is None:
            self.total, self.initial = self._total_steps * images, step * images
            self.n = self.initial
        self.update(images)


def _images(batch: Batch) -> int:
    """How many images a step works on, of all members together."""
    return batch["label_b"].size if "label_b" in batch else len(next(iter(batch.values())))


class _Losses:
    """Losses that lie on the devices, until a block of them is read.

    To read one waits for its step and for a transfer: read after every step, devices would stand
    still meanwhile. `read_s` has those that were read.
    """

    def __init__(self, read_s: np.ndarray, first: int):
        self._read_s, self._first = read_s, first
        self._unread: list[jax.Array] = []

    def add(self, loss: jax.Array) -> None:
        """Takes the loss of the next step; raises `DivergedError` as `read`, for a whole block."""
        self._unread.append(loss)
        if len(self._unread) > _AHEAD:  # batches of steps that wait take memory
            self._unread[-1 - _AHEAD].block_until_ready()
        if len(self._unread) >= _BLOCK:
            self.read()

    def read(self) -> None:
        """Raises `DivergedError` for the first step of which no loss is finite."""
        for step, loss in enumerate(devices.fetch_all(self._unread), self._first):
            self._read_s[step] = loss
            if not np.isfinite(loss).any():  # of a population one is enough
                raise _diverged(step, np.ravel(loss)[0])
        self._first += len(self._unread)
        self._unread.clear()


def _diverged(step: int, loss: float) -> DivergedError:
    # The first loss is of the parameters as they start, whatever the learning rate.
    advice = (
        "lower the learning rate"
        if step
        else (
            "nothing was tuned yet, so the weights, or the features that they give of these "
            "images, are damaged: convert the checkpoint anew"
        )
    )
    return DivergedError(f"the loss is {loss} at step {step + 1}: {advice}")


@contextlib.contextmanager
def _signals_noticed() -> Iterator[list[int]]:
    """Yields a list that SIGTERM and SIGINT append their number to.

    In another thread than the main one, which alone may handle signals, it stays empty.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    numbers = signal.SIGTERM, signal.SIGINT
    previous = [signal.signal(number, lambda found, _: came.append(found)) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
