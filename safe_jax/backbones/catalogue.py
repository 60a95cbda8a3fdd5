"""The families of backbones, and the models of each that are known by name."""

import pathlib

import jax
import jax.numpy as jnp
from etils import epath
from jax.typing import DTypeLike

from safe_jax import clip, siglip
from safe_jax.backbones.contract import Backbone
from safe_jax.checkpoints import weights
from safe_jax.checkpoints.weights import Metadata

_ROOMS = clip, siglip
FAMILIES = {room.FAMILY.name: room.FAMILY for room in _ROOMS}
NAMES = tuple(name for room in _ROOMS for name in room.NAMES)
LICENCES = {name: licence for room in _ROOMS for name, licence in room.LICENCES.items()}


def locate(
    name_or_path: epath.PathLike, cache_dir: epath.PathLike = clip.CACHE_DIR
) -> pathlib.Path | epath.Path:
    """The Orbax directory of a name or a path; the weights of a name are obtained on first use.

    Raises `InputError` where there is no such directory, or no such name.
    """
    for room in _ROOMS:
        if name_or_path in room.NAMES:
            return room.fetch(str(name_or_path), cache_dir)
    return weights.existing(name_or_path, NAMES)


def load(
    name_or_path: epath.PathLike,
    dtype: DTypeLike = jnp.float32,
    sharding: jax.sharding.Sharding | None = None,
    cache_dir: epath.PathLike = clip.CACHE_DIR,
    image_size: int = 0,
) -> Backbone:
    """The model of a name or of an Orbax directory, of whatever family.

    Args:
        name_or_path: one of `NAMES`, or a directory that `safe-jax convert` wrote.
        dtype: of the trunk's computations; parameters are float32 in any case.
        sharding: of the arrays; they are on the first device by default.
        cache_dir: the folder for downloaded checkpoints and for what they are converted to.
        image_size: pixels of a side; with another than the weights were trained for (0), the
            positions of cells are interpolated.

    Raises `InputError` where no weights are found.
    """
    directory = locate(name_or_path, cache_dir)
    return weights.load(directory, tuple(FAMILIES.values()), dtype, sharding, image_size)


def read_metadata(directory: epath.PathLike, image_size: int = 0) -> Metadata:
    """What an Orbax directory has beside its arrays; with another `image_size`, of that model.

    Raises `InputError` where it is no such directory, and for a size that cells do not divide.
    """
    return weights.read_metadata(directory, tuple(FAMILIES.values()), image_size)
