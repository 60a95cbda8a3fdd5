"""A CLIP ResNet's checkpoint to an Orbax directory: `python -m safe_jax.clip.convert FILE DIR`."""

import sys

from etils import epath

from safe_jax.checkpoints import files, state_dict, weights
from safe_jax.clip.config import Activation
from safe_jax.clip.family import FAMILY
from safe_jax.runtime.errors import InputError


def convert(
    source: epath.PathLike, destination: epath.PathLike, activation: Activation = "quick_gelu"
) -> None:
    """Reads a checkpoint file and writes its Orbax directory. Raises `InputError`."""
    converted = state_dict.from_torch(FAMILY, files.read(source), activation=activation)
    weights.save(destination, converted.config, converted.leaves, converted.extras)


if __name__ == "__main__":
    try:
        convert(sys.argv[1], sys.argv[2])
    except (InputError, OSError) as error:
        sys.exit(str(error))
