"""The loop of a tuning, which survives being killed and stops on SIGTERM.

Axes: s steps, m members of a population.
"""

import contextlib
import logging
import signal

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from safe_jax.runtime import devices, hosts
from safe_jax.runtime.errors import InputError
from safe_jax.tuning.train import TrainState

log = logging.getLogger(__name__)


class DivergedError(InputError):
    """A loss is not finite."""


def fit(
    state: TrainState, tuning, total_steps: int, batches, folder, every: int
) -> tuple[TrainState, np.ndarray]:
    """Tunes for `total_steps`, from the last checkpoint in `folder` if there is one.

    Args:
        tuning: a `Tuning`, or a `population.Population` with the state of all its members.
        batches: a function from the first step to an iterator over the batches from there on.
        every: how many steps lie between checkpoints.

    Returns the last state and the loss of every step, `(s,)`, or `(s, m)` of m members. Raises
    `DivergedError`, naming the step, where no loss is finite; exits with 143 on SIGTERM, once the
    state is saved.
    """
    losses = np.full((total_steps, *state.step.shape), np.nan, np.float32)
    first = 0
    with _sigterm_noticed() as sigterm, _open_checkpoints(folder, every) as saved:
        if saved.latest is not None:
            abstract = {"state": jax.tree.map(_abstract, state), "losses": losses}
            restored = saved.load(saved.latest, abstract)
            state, losses = restored["state"], restored["losses"]
            first = saved.latest.step
            log.info("resuming at step %d of %d", first, total_steps)

        unread = None
        asked_to_stop = hosts.StopSignal(sigterm)
        for step, batch in zip(range(first, total_steps), batches(first), strict=True):
            state, loss = tuning.step(state, batch)
            if unread is not None:  # a step late, so that the device is never waited for
                _read(losses, *unread)
            unread = step, loss
            stop = asked_to_stop()
            if saved.should_save(step + 1) or stop:
                _read(losses, *unread)
                unread = None
                saved.save(step + 1, {"state": state, "losses": losses}, force=True)
            if stop:
                log.warning("SIGTERM: stopped after step %d; the same command goes on", step + 1)
                raise SystemExit(128 + signal.SIGTERM)
        if unread is not None:
            _read(losses, *unread)
    if asked_to_stop.final():  # it came too late for the loop
        raise SystemExit(128 + signal.SIGTERM)
    return state, losses


def _open_checkpoints(folder, every):
    return ocp.training.Checkpointer(
        folder,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
        preservation_policy=ocp.training.preservation_policies.LatestN(1),
        cleanup_tmp_directories=True,
    )


def _read(losses, step, loss):
    losses[step] = devices.fetch(loss)
    if not np.isfinite(losses[step]).any():  # of a population one is enough
        loss = np.ravel(losses[step])[0]
        raise DivergedError(f"the loss is {loss} at step {step + 1}: lower the learning rate")


def _abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


@contextlib.contextmanager
def _sigterm_noticed():
    """Yields a list that becomes non-empty when SIGTERM arrives."""
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)
