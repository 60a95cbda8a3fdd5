"""The loop over steps, which survives being killed and stops on SIGTERM.

Axes: s steps, m members of a population.
"""

import contextlib
import logging
import pathlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import absl.logging
import jax
import numpy as np
import tqdm
from orbax.checkpoint import v1 as ocp

from safe_jax.methods.contract import Batch
from safe_jax.runtime import devices, hosts, paths
from safe_jax.runtime.errors import InputError
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
    first = 0
    with (
        _signals_noticed() as signals,
        _open_checkpoints(folder, every) as checkpoints,
        _Progress(total_steps) as progress,
    ):
        if checkpoints.latest is not None:
            abstract = {"state": jax.tree.map(_abstract, state), "losses": losses}
            restored = checkpoints.load(checkpoints.latest, abstract)
            state, losses = restored["state"], restored["losses"]
            first = checkpoints.latest.step
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
            if checkpoints.should_save(step + 1) or stop:
                _read(losses, *unread)
                unread = None
                _save(checkpoints, step + 1, {"state": state, "losses": losses}, folder)
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


@contextlib.contextmanager
def _open_checkpoints(folder, every) -> Iterator[Any]:
    """Yields the checkpoints in a folder; where the block fails, nothing half-written stays."""
    saving: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(every)
    keeping: Any = ocp.training.preservation_policies.LatestN(1)
    checkpoints = ocp.training.Checkpointer(
        folder,
        save_decision_policy=saving,
        preservation_policy=keeping,
        cleanup_tmp_directories=True,
    )
    verbosity = absl.logging.get_verbosity()
    # Of a save that fails Orbax logs a traceback for each of its threads, before it raises one.
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield checkpoints
    except BaseException:
        with contextlib.suppress(Exception):  # closing raises anew what a save raised
            checkpoints.close()
        _remove_unfinished(folder)
        raise
    else:
        checkpoints.close()
    finally:
        absl.logging.set_verbosity(verbosity)


def _remove_unfinished(folder) -> None:
    """Removes what a failed save left, which holds room where there is none."""
    if not hosts.is_first() or not folder.is_dir():
        return
    for _ in range(20):  # threads of Orbax's may be writing still
        left = list(folder.glob("*.orbax-checkpoint-tmp"))
        if not left:
            return
        for unfinished in left:
            paths.remove_folder(unfinished)
        time.sleep(0.1)


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


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _save(checkpoints, step: int, content: Any, folder: pathlib.Path) -> None:
    """Raises `InputError` where a checkpoint cannot be written."""
    try:
        checkpoints.save(step, content, force=True)
    except Exception as error:  # Orbax raises many kinds for a full disk
        text = (str(error).strip() or repr(error)).splitlines()[0]
        reason = re.sub(r'"/[^"]*":? ?', "", text)[:200]  # without paths of Orbax's own
        raise InputError(
            f"a checkpoint cannot be written in {folder} ({reason}): make room, or set another "
            "--workdir; the same command goes on"
        ) from error


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
