"""A model tuned on ImageNet, evaluated on images of the same classes from other sources.

Nothing is learned or chosen there: parameters and alpha are those that ImageNet gave.
"""

from safe_jax.data import datasets
from safe_jax.experiment.knobs import Config
from safe_jax.runtime.errors import InputError


def load(config: Config) -> dict[str, datasets.Transfer]:
    """The sets that `config.transfer` names. Raises `InputError` where they do not apply."""
    if config.transfer and datasets.name(config) != "imagenet":
        raise InputError(
            "config.transfer is for a model tuned on ImageNet (config.dataset=imagenet or "
            f"config.tfds=imagenet2012), not on {datasets.name(config)}"
        )
    if config.transfer and config.eval_split != "test":
        raise InputError("config.transfer evaluates on test images: set config.eval_split=test")
    return {name: datasets.load_transfer(config, name) for name in datasets.transfer_names(config)}
