"""A model tuned on ImageNet, evaluated on images of the same classes from other sources.

Nothing is learned or chosen there: the tuned pool and its alpha are what ImageNet gave.
"""

import dataclasses

import numpy as np

from safe_jax import train
from safe_jax.data import datasets
from safe_jax.errors import InputError
from safe_jax.methods import zero_shot


def load(config) -> list[datasets.Transfer]:
    """The sets that `config.transfer` names."""
    if config.transfer and datasets.name(config) != "imagenet":
        raise InputError(
            "config.transfer is for a model tuned on ImageNet (config.dataset=imagenet or "
            f"config.tfds=imagenet2012), not on {datasets.name(config)}"
        )
    if config.transfer and config.eval_split != "test":
        raise InputError("config.transfer evaluates on test images: set config.eval_split=test")
    return [datasets.load_transfer(config, name) for name in datasets.transfer_names(config)]


def zero_shot_accuracies(context) -> dict[str, float]:
    """Of the original pool, per cent by the name of the set."""
    found = {}
    for target in context.transfers:
        image_n, label_n = context.banks[target.name].find(target.records)
        pooled_nd = context.banks[target.name].bank.pooled[image_n]
        text_kd = context.text_kd[np.array(target.classes)]
        found[target.name] = zero_shot.accuracy(pooled_nd, text_kd, label_n)
    return found


def tuned_accuracies(context, params, tuning, point, batches_of) -> dict[str, float]:
    """Of the tuned parameters at a point of the grid, per cent by the name of the set.

    Args:
        batches_of: a function from the context, a set's name and records to batches of these.
    """
    found = {}
    grid = {knob: np.array([value]) for knob, value in point.items()}
    for target in context.transfers:
        classifier = tuning.frozen.context
        classifier = dataclasses.replace(
            classifier, text_kd=classifier.text_kd[np.array(target.classes)]
        )
        restricted = dataclasses.replace(
            tuning, frozen=dataclasses.replace(tuning.frozen, context=classifier)
        )
        batches = batches_of(context, target.name, target.records)
        found[target.name] = float(train.evaluate(params, restricted, grid, batches)[0][0])
    return found


def add_rows(results, method: str, key, row: dict) -> None:
    """Writes a row, and before it one for each set of `row["transfer"]`.

    The main row comes last: where it stands, after a kill, all of them do.
    """
    common = {field: row[field] for field in ("selection", "alpha", "seconds")}
    common["tuned_on"] = results.common["dataset"]
    for name, accuracy in row.pop("transfer").items():
        if not results.has(method, *key, dataset=name):
            results.add(method, *key, accuracy=accuracy, dataset=name, **common)
    results.add(method, *key, **row)
