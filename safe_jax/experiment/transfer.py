"""A model tuned on ImageNet, evaluated on images of the same classes from other sources.

Nothing is learned or chosen there: what was tuned, and its alpha, are what ImageNet gave.
"""

from safe_jax.data import datasets
from safe_jax.runtime.errors import InputError


def load(config) -> dict[str, datasets.Transfer]:
    """The sets that `config.transfer` names."""
    if config.transfer and datasets.name(config) != "imagenet":
        raise InputError(
            "config.transfer is for a model tuned on ImageNet (config.dataset=imagenet or "
            f"config.tfds=imagenet2012), not on {datasets.name(config)}"
        )
    if config.transfer and config.eval_split != "test":
        raise InputError("config.transfer evaluates on test images: set config.eval_split=test")
    return {name: datasets.load_transfer(config, name) for name in datasets.transfer_names(config)}


def add_rows(results, method: str, key, row: dict) -> None:
    """Writes a row, and before it one for each set of `row["transfer"]`.

    The main row comes last: where it stands, after a kill, all of them do.
    """
    accuracies = row.pop("transfer")
    shared = (
        "selection", "alpha", "a", "b", "learning_rate", "weight_decay", "knobs", "seconds",
    )  # fmt: skip
    common = {field: row[field] for field in shared if field in row}
    common["tuned_on"] = results.common["dataset"]
    for name, accuracy in accuracies.items():
        if not results.find(method, *key, row.get("knobs", {}), name):
            results.add(method, *key, accuracy=accuracy, dataset=name, **common)
    results.add(method, *key, **row)
