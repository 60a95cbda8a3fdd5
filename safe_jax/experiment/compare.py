"""The methods that are compared: what each is made of, and the images that it takes."""

import dataclasses
import functools
import time
from collections.abc import Callable

from safe_jax.experiment import examples, knobs
from safe_jax.experiment.trial import Trial, Tuned
from safe_jax.methods import cache, safe, safe_a
from safe_jax.methods.clip_adapter import ClipAdapter
from safe_jax.methods.linear_probe import LinearProbe
from safe_jax.methods.partial import Partial
from safe_jax.methods.prolip import ProLIP
from safe_jax.methods.safe import Safe
from safe_jax.methods.safe_a import SafeA
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.tuning import fit, train


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method is compared.

    `start` gives method, parameters and context on a trial; `images` the images in the form that
    it takes; `grid` what is chosen on validation images beside rate and decay. `after` has been
    tuned before, on the same trial.
    """

    start: Callable
    images: Callable
    grid: Callable = lambda trial, config: {}
    tunes: bool = True
    after: tuple[str, ...] = ()


def tune(trials: list[Trial], name: str) -> None:
    """Tunes a method on trials, as far as it has not been, and notes what each chooses."""
    method = METHODS[name]
    for earlier in method.after:
        tune(trials, earlier)
    trials = [trial for trial in trials if name not in trial.choices]
    if not trials:
        return
    config = knobs.of(trials[0].context.config, name)
    starts, seconds = [], []
    for trial in trials:
        began = time.time()
        banked = method.tunes and config.features == "bank"
        images = method.images(trial, "train") if banked else None
        starts.append(fit.Start(*method.start(trial, config), images))
        seconds.append(time.time() - began)
    if method.tunes:
        tuned = fit.tune(trials, starts, name, config)
    else:
        tuned = [[_as_is(trial, *start[:3])] for trial, start in zip(trials, starts, strict=True)]
    for trial, candidates, before in zip(trials, tuned, seconds, strict=True):
        began = time.time()
        images_of = functools.partial(method.images, trial)
        choice = trial.choose(candidates, method.grid(trial, config), images_of)
        taken = before + choice.seconds + time.time() - began
        trial.choices[name] = dataclasses.replace(choice, seconds=taken)


def _as_is(trial, method, params, context) -> Tuned:
    return Tuned(*train.as_is(method, params, context, trial.mesh))


def row(trial: Trial, name: str) -> dict:
    """What a method's row says beside what tells the trial, once it is tuned.

    Its seconds are all that it takes by itself: SAFE-A's have SAFE's tuning, though it is shared;
    of a tuning together with others they are an even share.
    """
    method, choice, began = METHODS[name], trial.choices[name], time.time()
    found = trial.measured(choice, functools.partial(method.images, trial))
    if name == "safe":
        found |= examples.of_safe(trial, found["alpha"])
    shared = sum(trial.choices[earlier].seconds for earlier in method.after)
    found["seconds"] = shared + choice.seconds + time.time() - began
    own = knobs.own(trial.context.config, name)
    return found | {"knobs": own} if own else found


# How each method starts on a trial.


def _text_classifier(trial, config):
    return LinearProbe.init(trial.context.model, trial.context.text_kd)


def _safe(trial, config):
    return Safe.init(trial.context.model, trial.context.text_kd, config)


def _cache(trial, config):
    images, context = trial.pooled("train"), trial.context
    support_nvd = images.bank.arrays["original_bd"][images.row_nv]
    return TipAdapter.init(context.model, context.text_kd, support_nvd, images.label_n, config)


def _cache_of_both_pools(trial, config):
    images, context = trial.both_pools("train"), trial.context
    arrays = (images.bank.arrays[name][images.row_nv] for name in ("tuned_bd", "original_bd"))
    return SafeA.init(context.model, context.text_kd, *arrays, images.label_n, config)


def _keys_of_both_pools(trial, config):
    method, support, context = _cache_of_both_pools(trial, config)
    return method, *method.with_keys(support, context, _safe_a_alpha(trial))


def _safe_a_alpha(trial):
    return trial.choices["safe_a"].point["alpha"]


def _adapter(trial, config):
    context = trial.context
    return ClipAdapter.init(context.model, context.text_kd, config, trial.subset.seed)


def _projection(trial, config):
    weight = config.regularizer / trial.subset.shots
    return ProLIP.init(trial.context.model, trial.context.text_kd, weight)


def _pool_and_head(trial, config):
    return Partial.init(trial.context.model, trial.context.text_kd)


# What each method leaves to selection.


def _alpha(trial, config):
    return safe.grid(config)


def _b_a(trial, config):
    return cache.grid(config)


def _alpha_b_a(trial, config):
    return safe_a.grid(config)


def _b_a_at_alpha(trial, config):
    return safe_a.grid(config, _safe_a_alpha(trial))


METHODS = {
    "zero_shot": Method(_text_classifier, Trial.pooled, tunes=False),
    "safe": Method(_safe, Trial.dense, _alpha),
    "safe_a": Method(
        _cache_of_both_pools, Trial.both_pools, _alpha_b_a, tunes=False, after=("safe",)
    ),
    "safe_a_f": Method(
        _keys_of_both_pools, Trial.both_pools, _b_a_at_alpha, after=("safe", "safe_a")
    ),
    "tip_adapter": Method(_cache, Trial.pooled, _b_a, tunes=False),
    "tip_adapter_f": Method(_cache, Trial.pooled, _b_a),
    "clip_adapter": Method(_adapter, Trial.pooled),
    "prolip": Method(_projection, Trial.unprojected),
    "linear_probe": Method(_text_classifier, Trial.pooled),
    "partial": Method(_pool_and_head, Trial.dense),
}
