"""Tuning the pool: state, `train_step`, `eval_step`, and the loop that survives being killed.

Axes: b images of a batch, h rows and w columns of cells, c channels, d channels of the joint
space, k classes, a values of alpha.
"""

import contextlib
import dataclasses
import functools
import logging
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util
from ml_collections import FrozenConfigDict
from orbax.checkpoint import v1 as ocp

from safe_jax import parallel
from safe_jax.errors import InputError
from safe_jax.methods import safe

log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes. `params` and `opt_state` hold the trained leaves alone."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a step reads only: the pool's leaves that do not train, and the text classifier."""

    params: dict
    text_kd: jax.Array
    scale: jax.Array


def label_params(params: dict, trainable: str) -> dict:
    """`train` or `freeze` for each leaf, by whether its path fits the pattern whole.

    Paths are those of the model, such as `attnpool/c_proj/kernel`. Raises `InputError` where
    nothing would train.
    """
    paths = traverse_util.flatten_dict(params, sep="/")
    labels = {
        path: "train" if re.fullmatch(trainable, f"attnpool/{path}") else "freeze" for path in paths
    }
    if "train" not in labels.values():
        raise InputError(
            f"config.trainable={trainable!r} fits no leaf of the pool; there are:\n  "
            + "\n  ".join(f"attnpool/{path}" for path in paths)
        )
    return traverse_util.unflatten_dict(labels, sep="/")


def split_params(params: dict, labels: dict) -> tuple[dict, dict]:
    """The trained and the frozen leaves: two trees of the same shape, masked where the other is."""
    trained, frozen = (
        jax.tree.map(lambda x, label, want=want: x if label == want else optax.MaskedNode(),
                     params, labels)
        for want in ("train", "freeze")
    )  # fmt: skip
    return trained, frozen


def join_params(trained: dict, frozen: dict) -> dict:
    """The inverse of `split_params`."""

    def is_masked(x):
        return isinstance(x, optax.MaskedNode)

    return jax.tree.map(lambda t, f: f if is_masked(t) else t, trained, frozen, is_leaf=is_masked)


@functools.cache  # one object for each recipe: a step compiled for it serves every seed
def make_optimizer(config, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW for the leaves that `config.trainable` names, nothing for the others.

    The rate climbs linearly for `warmup_epochs`, then follows a cosine to zero at `total_steps`.
    """
    warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), total_steps - 1)
    rate = optax.cosine_decay_schedule(config.learning_rate, total_steps - warmup_steps)
    if warmup_steps:
        first = config.learning_rate / (warmup_steps + 1)
        climb = optax.linear_schedule(first, config.learning_rate, warmup_steps)
        rate = optax.join_schedules([climb, rate], [warmup_steps])
    adamw = optax.adamw(
        rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
    )
    return optax.partition(
        {"train": adamw, "freeze": optax.set_to_zero()},
        functools.partial(label_params, trainable=config.trainable),
    )


@functools.partial(
    jax.jit,
    static_argnames=("graphdef", "optimizer", "blend", "alpha"),
    donate_argnames="state",
)
def train_step(state, frozen, batch, *, graphdef, optimizer, blend, alpha):
    """One step on `batch`; returns the new state and the loss.

    `batch` has `dense_bhwc`, `original_bd` (the original pool's features), `label_b` and
    `weight_b`, which is 0 for rows that only fill the batch up. `alpha` is that of the blend that
    is tuned: 1 tunes the pool by itself.
    """

    def loss_fn(trained):
        pool = nnx.merge(graphdef, join_params(trained, frozen.params))
        tuned_bd = pool(batch["dense_bhwc"])
        logits_bk = safe.blended_logits(
            tuned_bd, batch["original_bd"], frozen.text_kd, frozen.scale, alpha, blend
        )
        return _weighted_mean(_cross_entropy(logits_bk, batch["label_b"]), batch["weight_b"])

    # With respect to the trained leaves alone: no gradient of a frozen one is ever computed.
    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), loss


@functools.partial(jax.jit, static_argnames=("graphdef", "blend"))
def eval_step(params, frozen, batch, alpha_a, *, graphdef, blend):
    """Right answers and summed loss at every alpha, `(a,)`, and how many rows counted.

    Features are pooled once, whatever the number of alphas.
    """
    tuned_bd = nnx.merge(graphdef, join_params(params, frozen.params))(batch["dense_bhwc"])

    def at(alpha):
        logits_bk = safe.blended_logits(
            tuned_bd, batch["original_bd"], frozen.text_kd, frozen.scale, alpha, blend
        )
        right_b = logits_bk.argmax(-1) == batch["label_b"]
        loss_b = _cross_entropy(logits_bk, batch["label_b"])
        return (right_b * batch["weight_b"]).sum(), (loss_b * batch["weight_b"]).sum()

    # One alpha after the other: a x b x k logits can be gigabytes.
    return *jax.lax.map(at, alpha_a), batch["weight_b"].sum()


def _cross_entropy(logits_bk, label_b):
    return optax.softmax_cross_entropy_with_integer_labels(logits_bk, label_b)


def _weighted_mean(loss_b, weight_b):
    return (loss_b * weight_b).sum() / weight_b.sum()


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What stays the same from the first step of a tuning to the evaluation of its result."""

    frozen: Frozen
    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    config: FrozenConfigDict


def start(pool: nnx.Module, text_kd, logit_scale, config, plan, mesh) -> tuple[TrainState, Tuning]:
    """The state before the first step of tuning a copy of `pool` as `plan` says."""
    graphdef, params = nnx.split(pool)
    params = nnx.to_pure_dict(params)
    trained, frozen = split_params(params, label_params(params, config.trainable))
    trained = jax.tree.map(jnp.copy, trained)  # steps consume their state; the model keeps its own
    optimizer = make_optimizer(config, plan.steps, plan.steps_per_epoch)
    state = TrainState(jnp.int32(0), trained, optimizer.init(params))
    frozen = parallel.replicate(mesh, Frozen(frozen, text_kd, jnp.exp(logit_scale)))
    return parallel.replicate(mesh, state), Tuning(frozen, graphdef, optimizer, config)


def fit(
    state: TrainState, tuning: Tuning, total_steps: int, batches, folder
) -> tuple[TrainState, np.ndarray]:
    """Tunes for `total_steps`, from the last checkpoint in `folder` if there is one.

    Args:
        batches: a function from the first step to an iterator over the batches from there on.

    Returns the last state and the loss of every step. Raises `FloatingPointError`, naming the
    step, for a loss that is not finite; exits with 143 on SIGTERM, once the state is saved.
    """
    config = tuning.config
    losses = np.full(total_steps, np.nan, np.float32)
    with _open_checkpoints(folder, config.checkpoint_every) as saved, _sigterm_noticed() as sigterm:
        if saved.latest is not None:
            abstract = {"state": jax.tree.map(_abstract, state), "losses": losses}
            restored = saved.load(saved.latest, abstract)
            state, losses = restored["state"], restored["losses"]
            log.info("resuming at step %d of %d", state.step, total_steps)

        first = int(state.step)
        unread = None
        for step, batch in zip(range(first, total_steps), batches(first), strict=True):
            state, loss = train_step(
                state,
                tuning.frozen,
                batch,
                graphdef=tuning.graphdef,
                optimizer=tuning.optimizer,
                blend=config.blend,
                alpha=config.train_alpha,
            )
            if unread is not None:  # a step late, so that the device is never waited for
                _read(losses, *unread)
            unread = step, loss
            if saved.should_save(step + 1) or sigterm:
                _read(losses, *unread)
                unread = None
                saved.save(step + 1, {"state": state, "losses": losses}, force=True)
            if sigterm:
                log.warning("SIGTERM: stopped after step %d; the same command goes on", step + 1)
                raise SystemExit(128 + signal.SIGTERM)
        if unread is not None:
            _read(losses, *unread)
    return state, losses


def _open_checkpoints(folder, every):
    return ocp.training.Checkpointer(
        folder,
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
        preservation_policy=ocp.training.preservation_policies.LatestN(1),
        cleanup_tmp_directories=True,
    )


def _read(losses, step, loss):
    losses[step] = loss
    if not np.isfinite(losses[step]):
        raise FloatingPointError(
            f"the loss is {losses[step]} at step {step + 1}: lower config.learning_rate"
        )


def _abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


@contextlib.contextmanager
def _sigterm_noticed():
    """Yields a list that is no longer empty once SIGTERM has come."""
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)


def evaluate(params: dict, tuning: Tuning, alphas, batches) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy in per cent and mean loss at every alpha, over all batches."""
    alpha_a = jnp.asarray(alphas, jnp.float32)
    sums = [
        eval_step(
            params,
            tuning.frozen,
            batch,
            alpha_a,
            graphdef=tuning.graphdef,
            blend=tuning.config.blend,
        )
        for batch in batches
    ]
    right_a, loss_a, count = (
        np.sum([np.asarray(part, np.float64) for part in parts], axis=0)
        for parts in zip(*sums, strict=True)
    )
    return 100 * right_a / count, loss_a / count
