"""A SigLIP's folder to an Orbax directory: `python -m safe_jax.siglip.convert FOLDER DIR`."""

import pathlib
import sys

from etils import epath

from safe_jax.checkpoints import state_dict, weights
from safe_jax.runtime.errors import InputError
from safe_jax.siglip import checkpoint
from safe_jax.siglip.family import FAMILY


def convert(source: pathlib.Path, destination: epath.PathLike) -> None:
    """Reads a folder as Hugging Face has it, and writes its Orbax directory.

    Raises `InputError`.
    """
    tensors, described = checkpoint.read(source)
    converted = state_dict.from_torch(FAMILY, tensors, described=described)
    weights.save(destination, converted.config, converted.leaves, converted.extras)


if __name__ == "__main__":
    try:
        convert(pathlib.Path(sys.argv[1]), sys.argv[2])
    except (InputError, OSError) as error:
        sys.exit(str(error))
