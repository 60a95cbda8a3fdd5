"""The methods that are compared: what each is made of, and the images that it takes."""

import time

import numpy as np

from safe_jax import examples, knobs
from safe_jax.methods import cache, zero_shot
from safe_jax.methods.clip_adapter import ClipAdapter
from safe_jax.methods.linear_probe import LinearProbe
from safe_jax.methods.partial import Partial
from safe_jax.methods.prolip import ProLIP
from safe_jax.methods.safe import Safe
from safe_jax.methods.safe_a import SafeA
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.trial import Trial


def row(trial: Trial, method: str) -> dict:
    """What a method's row says beside what tells the trial.

    Its seconds are all that it takes by itself: SAFE-A's have SAFE's tuning, though it is shared.
    """
    own = knobs.own(trial.context.config, method)
    shared = trial.safe.seconds if method in ("safe", "safe_a", "safe_a_f") else 0
    began = time.time()
    found = MEASURE[method](trial, knobs.of(trial.context.config, method))
    found["seconds"] = shared + time.time() - began
    return found | {"knobs": own} if own else found


def _zero_shot(trial, config):
    def accuracy(use):
        images = trial.pooled(use)
        pooled_nd, text_kd = (
            images.bank.arrays["original_bd"][images.image_n],
            trial.context.text_kd,
        )
        if images.among_k is None:
            return zero_shot.accuracy(pooled_nd, text_kd, images.label_n)
        rank_k = np.cumsum(images.among_k) - 1
        return zero_shot.accuracy(pooled_nd, text_kd[images.among_k], rank_k[images.label_n])

    elsewhere = {name: accuracy(name) for name in trial.context.transfers}
    row = {"selection": "none", "alpha": None, "transfer": elsewhere}
    return row | {"accuracy": accuracy("eval")}


def _safe(trial, config):
    row = trial.measured(trial.safe, Safe.grid(config), trial.dense)
    return row | examples.of_safe(trial, row["alpha"])


def _tip_adapter(trial, config):
    tuned = trial.as_is(*_tip_adapter_start(trial, config))
    return trial.measured(tuned, cache.grid(config), trial.pooled)


def _tip_adapter_f(trial, config):
    start = _tip_adapter_start(trial, config)
    tuned = trial.tune("tip_adapter_f", config, *start, trial.pooled)
    return trial.measured(tuned, cache.grid(config), trial.pooled)


def _tip_adapter_start(trial, config):
    images = trial.pooled("train")
    support_nvd = images.bank.arrays["original_bd"][images.row_nv]
    context = trial.context
    return TipAdapter.init(context.model, context.text_kd, support_nvd, images.label_n, config)


def _safe_a(trial, config):
    tuned = trial.as_is(*_safe_a_start(trial, config))
    return trial.measured(tuned, SafeA.grid(config), trial.both_pools)


def _safe_a_f(trial, config):
    method, support, context = _safe_a_start(trial, config)
    grid = SafeA.grid(config)
    (at, *_), _ = trial.choose(trial.as_is(method, support, context), grid, trial.both_pools)
    method, keys = method.with_keys(support, float(grid["alpha"][at]))
    tuned = trial.tune("safe_a_f", config, method, keys, context, trial.both_pools)
    grid["alpha"] = grid["alpha"][[at]]
    return trial.measured(tuned, grid, trial.both_pools)


def _safe_a_start(trial, config):
    images = trial.both_pools("train")
    arrays = (images.bank.arrays[name][images.row_nv] for name in ("tuned_bd", "original_bd"))
    context = trial.context
    return SafeA.init(context.model, context.text_kd, *arrays, images.label_n, config)


def _clip_adapter(trial, config):
    made = ClipAdapter.init(trial.context.model, trial.context.text_kd, config, trial.subset.seed)
    tuned = trial.tune("clip_adapter", config, *made, trial.pooled)
    return trial.measured(tuned, {}, trial.pooled)


def _prolip(trial, config):
    weight = config.regularizer / trial.subset.shots
    made = ProLIP.init(trial.context.model, trial.context.text_kd, weight)
    tuned = trial.tune("prolip", config, *made, trial.unprojected)
    return trial.measured(tuned, {}, trial.unprojected)


def _linear_probe(trial, config):
    made = LinearProbe.init(trial.context.model, trial.context.text_kd)
    tuned = trial.tune("linear_probe", config, *made, trial.pooled)
    return trial.measured(tuned, {}, trial.pooled)


def _partial(trial, config):
    made = Partial.init(trial.context.model, trial.context.text_kd)
    tuned = trial.tune("partial", config, *made, trial.dense)
    return trial.measured(tuned, {}, trial.dense)


MEASURE = {
    "zero_shot": _zero_shot,
    "safe": _safe,
    "safe_a": _safe_a,
    "safe_a_f": _safe_a_f,
    "tip_adapter": _tip_adapter,
    "tip_adapter_f": _tip_adapter_f,
    "clip_adapter": _clip_adapter,
    "prolip": _prolip,
    "linear_probe": _linear_probe,
    "partial": _partial,
}
