"""The Orbax directory of a backbone's weights: arrays, their digest, and the backbone's config."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from etils import epath
from flax import nnx
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from safe_jax.checkpoints.state_dict import Family, TorchExtras
from safe_jax.checkpoints.trees import abstract_model, flatten, unflatten
from safe_jax.runtime import devices, disk, orbax_calls, paths, schema
from safe_jax.runtime.errors import InputError

Digest = Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Metadata(TorchExtras):
    """What an Orbax directory has beside the arrays and the config of its family."""

    digest: Digest


class Metadata(NamedTuple):
    """What an Orbax directory of converted weights has beside the arrays."""

    family: Family
    config: Any  # the family's
    digest: str
    extras: TorchExtras


def digest(leaves: Mapping[str, np.ndarray | jax.Array], config: schema.Model) -> str:
    """Identifies a set of weights: sha256 of names, shapes and values."""
    sha = hashlib.sha256(json.dumps(config.model_dump(), sort_keys=True).encode())
    for path in sorted(leaves):
        x = np.asarray(leaves[path], order="C")
        sha.update(f"{path} {x.shape} {x.dtype}".encode())
        sha.update(x.data)
    return sha.hexdigest()


def name(directory: epath.PathLike, digest: str) -> str:
    """A short name of weights, for rows: `NAME@DIGEST`."""
    return f"{paths.parse(directory).name}@{digest[:12]}"


def existing(path: epath.PathLike, names: Sequence[str]) -> Any:
    """The path of an Orbax directory, which is there.

    Args:
        names: what could have been given in its place.

    Raises `InputError`, which says how to make it.
    """
    path = paths.parse(path)
    if path.is_file():
        raise InputError(
            f"{path} is a file: convert it, `python tools/convert_torch_weights.py {path} DEST`, "
            "and name DEST"
        )
    if not path.exists():
        raise InputError(
            f"{path}: no such directory of converted weights; make it with "
            f"`python tools/convert_torch_weights.py CHECKPOINT {path}`, or use one of "
            f"{', '.join(names)} (a CLIP's ViT has no attention pool)"
        )
    return path


def _absolute(directory: epath.PathLike) -> Any:
    return paths.absolute(paths.parse(directory))


def save(
    directory: epath.PathLike,
    config: Any,
    leaves: Mapping[str, np.ndarray | jax.Array],
    extras: TorchExtras | None = None,
) -> None:
    """Writes an Orbax directory, whole or not at all.

    Raises `InputError` if it exists, `OSError` where it cannot be written.
    """
    path = _absolute(directory)
    if path.exists():
        raise InputError(f"{path} exists already: remove it, or choose another destination")
    path.parent.mkdir(parents=True, exist_ok=True)
    extras = extras or TorchExtras()
    metadata = _Metadata(digest=digest(leaves, config), **dict(extras)).model_dump(mode="json")
    metadata[config.family] = config.model_dump(mode="json")
    tree: Any = {name.replace("/", "."): np.asarray(x) for name, x in leaves.items()}
    size = sum(x.nbytes for x in tree.values())
    disk.check_room(path.parent, size, "the weights", "choose another destination")
    # Under a name of this process's own: another may be converting to the same place.
    whole: Any = contextlib.nullcontext(path) if paths.is_remote(path) else paths.whole_folder(path)
    options: Any = {"custom_metadata": metadata}
    try:
        with whole as new, orbax_calls.unfinished_removed(path.parent, new.name):
            orbax_calls.attempt(lambda: ocp.save(new, tree, overwrite=new != path, **options))
    except orbax_calls.FailedError as error:
        raise InputError(f"{path} cannot be written: {error}") from None


def read_metadata(
    directory: epath.PathLike, families: Sequence[Family], image_size: int = 0
) -> Metadata:
    """What `save` wrote beside the arrays of an Orbax directory of one of `families`.

    Args:
        image_size: of the model, if it is not 0; other than the weights' own it has another digest.

    Raises `InputError` where there is no such directory, where it is incomplete, and for a value
    that is not allowed.
    """
    return _resized(_read(_absolute(directory), families)[0], image_size)


def _read(path: Any, families: Sequence[Family]) -> tuple[Metadata, dict[str, Any]]:
    """The metadata, and the shape and type of every array that is there."""
    foreign = InputError(
        f"{path} holds no converted weights: make them with "
        f"`python tools/convert_torch_weights.py CHECKPOINT {path}`"
    )
    try:
        found: Any = orbax_calls.attempt(lambda: ocp.metadata(path))
    except orbax_calls.FailedError:
        raise foreign from None
    given = dict(found.custom_metadata or {})
    family = next((one for one in families if one.name in given), None)
    if family is None:
        raise foreign
    if found.metadata is None:
        raise InputError(f"{path} is incomplete: remove it and convert the weights again")
    config = schema.check(family.config, given.pop(family.name), f"{path}: {family.name}.")
    rest = schema.check(_Metadata, given, f"{path}: ")
    extras = TorchExtras(dtypes=rest.dtypes, integers=rest.integers)
    return Metadata(family, config, rest.digest, extras), found.metadata


def _resized(metadata: Metadata, image_size: int) -> Metadata:
    config = metadata.config
    if not image_size or image_size == config.image_size:
        return metadata
    cell = metadata.family.cell(config)
    if image_size < cell or image_size % cell:
        raise InputError(
            f"image_size={image_size}: a multiple of {cell} is expected, as cells of this "
            f"{metadata.family.kind} have {cell} x {cell} pixels"
        )
    digest = hashlib.sha256(f"{metadata.digest} image_size={image_size}".encode()).hexdigest()
    config = config.model_copy(update={"image_size": image_size})
    return metadata._replace(config=config, digest=digest)


def _interpolated(position_nc: jax.Array, before: int, side: int) -> jax.Array:
    """Positions of `side * side` cells, after the `before` rows that are no cell's.

    Bicubic and, where there are fewer cells, smoothed: as open_clip's `resize_pos_embed`.
    """
    cells = position_nc[before:]
    old = round(len(cells) ** 0.5)
    grid = jax.image.resize(cells.reshape(old, old, -1), (side, side, cells.shape[-1]), "cubic")
    return jnp.concatenate([position_nc[:before], grid.reshape(side * side, -1)])


def load(
    directory: epath.PathLike,
    families: Sequence[Family],
    dtype: DTypeLike = jnp.float32,
    sharding: jax.sharding.Sharding | None = None,
    image_size: int = 0,
) -> Any:
    """The model in an Orbax directory of one of `families`, its arrays placed by `sharding`.

    With another `image_size` than the weights were made for, the positions of cells are
    interpolated.

    Raises `InputError` where the arrays are not those that were saved.
    """
    path = _absolute(directory)
    metadata, found = _read(path, families)
    model = abstract_model(metadata.config, dtype, kind=metadata.family.model)
    sharding = sharding or jax.sharding.SingleDeviceSharding(devices.available()[0])
    abstract: Any = {
        name.replace("/", "."): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for name, x in flatten(model).items()
    }
    damaged = f"{path} is damaged%s: remove it and convert the weights again"
    if {k: x.shape for k, x in abstract.items()} != {k: x.shape for k, x in found.items()}:
        raise InputError(damaged % ", its arrays are not those of its metadata")
    try:
        tree: Any = orbax_calls.attempt(lambda: ocp.load(path, abstract))
    except orbax_calls.FailedError as error:
        raise InputError(damaged % f" ({error})") from None
    leaves = {name.replace(".", "/"): x for name, x in tree.items()}
    if digest(leaves, metadata.config) != metadata.digest:
        raise InputError(damaged % ", its arrays are not those that were saved")
    wanted = _resized(metadata, image_size)
    if wanted.config != metadata.config:
        name, before = metadata.family.positions
        leaves[name] = _interpolated(leaves[name], before, wanted.config.dense_shape[0])
        model = abstract_model(wanted.config, dtype, kind=metadata.family.model)
    return nnx.merge(nnx.graphdef(model), unflatten(leaves))
