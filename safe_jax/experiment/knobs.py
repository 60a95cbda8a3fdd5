"""What a config may hold, what is filled in for it, and what identifies its results."""

import hashlib
import json
import logging
import math
import os
import re

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from safe_jax.classifier import selection
from safe_jax.data import datasets
from safe_jax.methods import safe, tip_adapter
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "features": ("bank", "online"),
    "bank_dtype": ("float16", "float32"),
    "blend": safe.BLENDS,
    "selection": selection.SELECTIONS,
    "eval_split": ("test", "val"),
    "protocol": ("few_shot", "tip_adapter"),
}
_AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "views": 1,
    "trunk_batch_size": 1,
    "eval_batch_size": 1,
    "checkpoint_every": 1,
    "alpha_grid_size": 2,
    "population": 1,
    "workers": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "learning_rate": 0,
    "eps": 0,
}
_TUNED = {"learning_rate": 0, "weight_decay": 0, "warmup_epochs": 0, "epochs": 1, "batch_size": 1}
_CACHE = {"a": 0, "b": 0, "a_max": 0, "b_max": 0, "a_steps": 1, "b_steps": 1}
_GROUP_AT_LEAST = {
    "tip_adapter": _CACHE,
    "safe_a": _CACHE,
    "tip_adapter_f": _TUNED | {"epochs": 0, "eps": 0},
    "clip_adapter": _TUNED | {"reduction": 1, "ratio": 0},
    "prolip": _TUNED | {"batch_size": 0, "regularizer": 0, "eps": 0},
    "linear_probe": _TUNED,
    "partial": _TUNED,
}

# The methods, and the groups of knobs that each has for itself beside those at the top.
_GROUPS = {
    "zero_shot": (),
    "safe": (),
    "safe_a": ("safe_a",),
    "safe_a_f": ("safe_a", "tip_adapter_f"),
    "tip_adapter": ("tip_adapter",),
    "tip_adapter_f": ("tip_adapter", "tip_adapter_f"),
    "clip_adapter": ("clip_adapter",),
    "prolip": ("prolip",),
    "linear_probe": ("linear_probe",),
    "partial": ("partial",),
}
METHODS = tuple(_GROUPS)
_ONLINE = ("zero_shot", "safe", "partial")  # the others tune on what is computed once

# No number in a row depends on these, or the row itself tells them: the weights, shots, seed, and
# the images as they are. The prompts are hashed themselves, wherever they come from.
_NOT_HASHED = (
    "data_root", "prompts_file", "weights", "cache_dir", "workers", "trunk_batch_size",
    "eval_batch_size", "checkpoint_every", "population", "shots", "seeds",
    # A row has the knobs of its method's groups: a method can join a file that has others.
    "methods", *{group for groups in _GROUPS.values() for group in groups},
)  # fmt: skip


def follow_protocol(config: ConfigDict) -> None:
    """Sets the knobs that `config.protocol` decides."""
    if config.protocol == "tip_adapter":
        log.info("config.protocol=tip_adapter: all validation images choose, and seed 1 is used")
        config.update(selection="full_val", seeds=(1,))


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a value that nothing can be done with."""
    for knob, choices in _CHOICES.items():
        if config[knob] not in choices:
            raise InputError(f"config.{knob}={config[knob]!r}: one of {', '.join(choices)}")
    methods = _names(config.methods)
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(
            f"config.methods: there is no {', '.join(unknown)}; choose from {', '.join(METHODS)}"
        )
    if not methods or len(set(methods)) < len(methods):
        raise InputError(f"config.methods={','.join(methods)}: different methods are expected")
    if config.features == "online" and (rest := [m for m in methods if m not in _ONLINE]):
        raise InputError(f"{', '.join(rest)}: set config.features=bank, for these tune on a bank")
    _validate_least("", config, _AT_LEAST)
    for group, least in _GROUP_AT_LEAST.items():
        _validate_least(f"{group}.", config[group], least)
        if "trainable" in config[group]:
            _validate_pattern(f"{group}.trainable", config[group].trainable)
    for knob in ("shots", "seeds"):
        values = config[knob]
        if (
            not values
            or not all(isinstance(x, int) for x in values)
            or len(set(values)) < len(values)
        ):
            raise InputError(f"config.{knob}={values}: different whole numbers are expected: 1,2,4")
    if min(config.shots) < 1:
        raise InputError(f"config.shots={config.shots}: at least 1 image a class is expected")
    if min(config.seeds) < 0 or max(config.seeds) >= 2**32:
        raise InputError(f"config.seeds={config.seeds}: from 0 to 2**32 - 1 is expected")
    scale = config.crop_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(f"config.crop_scale={config.crop_scale}: 0 < low <= high <= 1 is expected")
    for knob in ("learning_rates", "weight_decays"):
        values = config[knob]
        if len(set(values)) < len(values) or not all(_is_least(x, 0) for x in values):
            raise InputError(f"config.{knob}={values}: different numbers, none below 0, expected")
        if values and config.selection == "fixed":
            raise InputError(
                f"config.{knob} are chosen from on validation images, but "
                "config.selection=fixed chooses nothing: use few_shot_val"
            )
    if config.population > 1 and config.features == "online":
        raise InputError(
            "config.population tunes on a bank, each member with rows of its own: set "
            "config.features=bank, or config.population=1"
        )
    if not 0 <= config.alpha <= 1:
        raise InputError(f"config.alpha={config.alpha}: a value from 0 to 1 is expected")
    if not 0 < config.train_alpha <= 1:  # at 0 the tuned pool would have no part in the loss
        raise InputError(
            f"config.train_alpha={config.train_alpha}: above 0 and at most 1 is expected"
        )
    for knob in ("b1", "b2"):
        if not 0 <= config[knob] < 1:
            raise InputError(f"config.{knob}={config[knob]}: at least 0 and below 1 is expected")
    if config.clip_adapter.ratio > 1:
        raise InputError(f"config.clip_adapter.ratio={config.clip_adapter.ratio}: at most 1")
    _validate_pattern("trainable", config.trainable)
    if (config.eval_split, config.selection) == ("val", "full_val"):
        raise InputError(
            "config.eval_split=val evaluates on validation images that chose no alpha, but with "
            "config.selection=full_val every validation image chose alpha: use few_shot_val"
        )


def _validate_least(prefix, knobs, at_least):
    for knob, least in at_least.items():
        if not _is_least(knobs[knob], least):
            raise InputError(f"config.{prefix}{knob}={knobs[knob]}: at least {least} is expected")


def _is_least(x, least):
    return isinstance(x, int | float) and least <= x < math.inf  # nan is not


def _validate_pattern(knob, pattern):
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"config.{knob}={pattern!r} is no regular expression: {error}") from None


def _names(methods):
    """As they are in a config file, or in one string of a command line."""
    return tuple(name.strip() for name in ",".join(methods).split(",") if name.strip())


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """The config with automatic values filled in; it cannot change any more."""
    config = config.copy_and_resolve_references()
    config.methods = _names(config.methods)
    benchmark = datasets.benchmark_name(config)
    settings = tip_adapter.SETTINGS.get(benchmark, tip_adapter.OTHERS)._asdict()
    for group in (config.tip_adapter, config.safe_a):
        group.update({knob: float(x) for knob, x in settings.items() if not group[knob]})
    if not config.tip_adapter_f.epochs:
        config.tip_adapter_f.epochs = 100 if benchmark == "eurosat" else 20
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.workers = config.workers or os.cpu_count()
    return FrozenConfigDict(config)


def own(config, method: str) -> dict:
    """The knobs that a method has for itself."""
    return {k: v for group in _GROUPS[method] for k, v in config[group].to_dict().items()}


def of(config: FrozenConfigDict, method: str) -> FrozenConfigDict:
    """The config as a method sees it: its own knobs in the place of those at the top."""
    return FrozenConfigDict(config.to_dict() | own(config, method))


def experiment_hash(config: FrozenConfigDict, data, weights_digest: str) -> str:
    """Identifies an experiment: rows with the same hash belong together."""
    knobs = {k: v for k, v in config.to_dict().items() if k not in _NOT_HASHED}
    sha = hashlib.sha256(
        json.dumps([knobs, weights_digest, data.classnames, data.prompts]).encode()
    )
    for part in data.splits:
        sha.update(
            "\n".join(f"{record.path} {record.label}" for record in part).encode(
                "utf-8", "surrogateescape"
            )
        )
    return sha.hexdigest()[:12]


def note(path, config: FrozenConfigDict) -> None:
    """Writes every knob down for whoever reads the results."""
    path.parent.mkdir(exist_ok=True)
    paths.write(path, (json.dumps(config.to_dict(), indent=2) + "\n").encode())
