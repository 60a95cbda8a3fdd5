"""What a config may hold, what is filled in for it, and what identifies its results."""

import hashlib
import json
import os
import pathlib
import re

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from safe_jax import selection
from safe_jax.errors import InputError
from safe_jax.methods import safe

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "features": ("bank", "online"),
    "bank_dtype": ("float16", "float32"),
    "blend": safe.BLENDS,
    "selection": selection.SELECTIONS,
    "eval_split": ("test", "val"),
}
_AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "views": 1,
    "trunk_batch_size": 1,
    "eval_batch_size": 1,
    "checkpoint_every": 1,
    "alpha_grid_size": 2,
    "workers": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "learning_rate": 0,
}

# No number in a row depends on these, or the row itself tells them: the weights, shots, seed, and
# the images as they are. The prompts are hashed themselves, wherever they come from.
_NOT_HASHED = (
    "data_root", "prompts_file", "weights", "cache_dir", "workers", "trunk_batch_size",
    "eval_batch_size", "checkpoint_every", "shots", "seeds",
)  # fmt: skip


def validate(config: ConfigDict) -> None:
    """Raises `InputError` for a value that nothing can be done with."""
    for knob, choices in _CHOICES.items():
        if config[knob] not in choices:
            raise InputError(f"config.{knob}={config[knob]!r}: one of {', '.join(choices)}")
    for knob, least in _AT_LEAST.items():
        if config[knob] < least:
            raise InputError(f"config.{knob}={config[knob]}: at least {least} is expected")
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
    if not 0 <= config.alpha <= 1:
        raise InputError(f"config.alpha={config.alpha}: a value from 0 to 1 is expected")
    try:
        re.compile(config.trainable)
    except re.error as error:
        raise InputError(
            f"config.trainable={config.trainable!r} is no regular expression: {error}"
        ) from None
    if (config.eval_split, config.selection) == ("val", "full_val"):
        raise InputError(
            "config.eval_split=val evaluates on validation images that chose no alpha, but with "
            "config.selection=full_val every validation image chose alpha: use few_shot_val"
        )


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """The config with automatic values filled in; it cannot change any more."""
    config = ConfigDict(config)
    if config.dtype == "auto":
        config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.workers = config.workers or os.cpu_count()
    return FrozenConfigDict(config)


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


def note(path: pathlib.Path, config: FrozenConfigDict) -> None:
    """Writes every knob down for whoever reads the results."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    partial.replace(path)
