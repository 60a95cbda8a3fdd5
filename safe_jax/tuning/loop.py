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

        unread = None
        stop_signal = hosts.StopSignal(signals)
        for step, batch in zip(range(first, total_steps), batches(first), strict=True):
            state, loss = steps.step(state, batch)
            progress.add(step, _images(batch))
            if unread is not None:  # a step late, so that the device is never waited for
                _read(losses, *unread)
            unread = step, loss
            stop = stop_signal()
            if states.should_save(step + 1) or stop:
                _read(losses, *unread)
                unread = None
                states.save(step + 1, {"state": state, "losses": losses})
            if stop:
                number = signals[0] if signals else signal.SIGTERM
                log.warning(
                    "%s: stopped after step %d; the same command goes on",
                    signal.Signals(number).name, step + 1,
                )  # fmt: skip
                raise SystemExit(128 + number)
        if unread is not None:
            _read(losses, *unread)
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


def _read(losses: np.ndarray, step: int, loss: jax.Array) -> None:
    losses[step] = devices.fetch(loss)
    if not np.isfinite(losses[step]).any():  # of a population one is enough
        first_loss = np.ravel(losses[step])[0]
        # The first loss is of the parameters as they start, whatever the learning rate.
        advice = (
            "lower the learning rate"
            if step
            else (
                "nothing was tuned yet, so the weights, or the features that they give of these "
                "images, are damaged: convert the checkpoint anew"
            )
        )
        raise DivergedError(f"the loss is {first_loss} at step {step + 1}: {advice}")


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
