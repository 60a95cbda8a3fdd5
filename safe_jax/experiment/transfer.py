"""What was tuned on one data set, evaluated on images of other sources.

Nothing is learned or chosen there: parameters and alpha are those that the data set gave. The
variants of ImageNet have its classes; the other data sets have their own, and a method is asked for
them by their rows of text, if it is nothing but such a row that makes a class (`open_classes`).
"""

from safe_jax.data import datasets
from safe_jax.data.layouts import TRANSFER
from safe_jax.experiment.knobs import Config
from safe_jax.runtime.errors import InputError


def load(config: Config) -> dict[str, datasets.Transfer]:
    """The sets that `config.transfer` names. Raises `InputError` where they do not apply."""
    tuned_on, names = datasets.name(config), datasets.transfer_names(config)
    if (variants := [name for name in names if name in TRANSFER]) and tuned_on != "imagenet":
        raise InputError(
            f"config.transfer={variants[0]} is for a model tuned on ImageNet "
            "(config.dataset=imagenet or config.tfds=imagenet2012), not on "
            f"{tuned_on}"
        )
    if names and config.eval_split != "test":
        raise InputError("config.transfer evaluates on test images: set config.eval_split=test")
    if tuned_on in names:
        raise InputError(
            f"config.transfer: {tuned_on} is what is tuned on, and its test images are evaluated "
            "anyway: leave it out"
        )
    return {name: datasets.load_transfer(config, name) for name in names}
