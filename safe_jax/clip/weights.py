"""Weights of a model: from a torch checkpoint and back, and their Orbax directory.

Reading a checkpoint is strict: the message lists every tensor that is missing, unexpected or
misshapen, and nothing is written.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from etils import epath
from flax import nnx, traverse_util
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from safe_jax.clip import table
from safe_jax.clip.config import Activation, CLIPConfig
from safe_jax.clip.model import CLIP, ImageTower
from safe_jax.runtime import devices, disk, orbax_calls, paths, schema
from safe_jax.runtime.errors import InputError, listing

_TOWER = "visual", "attnpool"
ModelT = TypeVar("ModelT", bound=ImageTower)
_LARGEST_SCALE = 5.0  # a bit more than CLIP's ln 100, for weights in 16 bits
DType = Literal["float32", "float16", "bfloat16"]  # float32 holds the values of each
Digest = Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")]


class TorchExtras(schema.Model):
    """What a torch checkpoint has beside its values; `to_torch` gives it back."""

    dtypes: dict[str, DType] = pydantic.Field(default_factory=dict)  # of each tensor
    integers: dict[str, int] = pydantic.Field(default_factory=dict)  # that the model does not use


class Metadata(TorchExtras):
    """What an Orbax directory of converted weights has beside the arrays."""

    clip: CLIPConfig
    digest: Digest


class Converted(NamedTuple):
    """A torch checkpoint as we use it; `leaves` are float32, by path."""

    config: CLIPConfig
    leaves: dict[str, np.ndarray]
    extras: TorchExtras


def abstract_model(
    config: CLIPConfig, dtype: DTypeLike = jnp.float32, kind: type[ModelT] = CLIP
) -> ModelT:
    """The model with shapes in place of arrays: nothing is allocated."""
    keys = cast(nnx.Rngs, _OneKey())
    return nnx.eval_shape(lambda: kind(config, dtype=dtype, rngs=keys))


def image_tower(model: ImageTower) -> ImageTower:
    """The image tower alone of a model that may have more, with the same arrays."""
    if type(model) is ImageTower:
        return model
    dtype: Any = model.visual.conv1.dtype
    tower = abstract_model(model.config, dtype, ImageTower)
    parts = {name: nnx.to_pure_dict(nnx.state(getattr(model, name))) for name in _TOWER}
    return nnx.merge(nnx.graphdef(tower), parts)


class _OneKey:
    """Stands in for `nnx.Rngs`, whose counter makes tracing quadratic in the number of layers."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def flatten(model: nnx.Module) -> dict[str, jax.Array]:
    """The model's leaves by path, such as `attnpool/c_proj/kernel`."""
    leaves: Any = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    return {"/".join(map(str, path)): x for path, x in leaves.items()}


def unflatten(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """The inverse of `flatten`, as a tree for `nnx.merge`."""
    return traverse_util.unflatten_dict(
        {tuple(int(k) if k.isdigit() else k for k in path.split("/")): x
         for path, x in leaves.items()}
    )  # fmt: skip


def from_torch(
    tensors: Mapping[str, np.ndarray], activation: Activation = "quick_gelu"
) -> Converted:
    """Converts a state dict; `to_torch` is the inverse, bit for bit.

    Raises `InputError` listing every tensor that does not fit, or has values that are not finite
    or that float32 cannot hold.
    """
    config = table.infer_config(tensors, activation)
    places = match(tensors, config)
    dtypes: dict[str, Any] = {name: str(tensors[name].dtype) for name in places}
    if others := [f"{name}: {d}" for name, d in dtypes.items() if d not in get_args(DType)]:
        raise InputError("float32 would not hold these bit for bit; cast them:" + listing(others))
    leaves = {
        path: np.asarray(layout.to_ours(tensors[name].astype(np.float32)), order="C")
        for name, (path, layout) in places.items()
    }
    unusable = [name for name, place in places.items() if not np.isfinite(leaves[place.path]).all()]
    if unusable:
        raise InputError("the checkpoint has values that are not finite:" + listing(unusable))
    _check_ranges(leaves)
    extras = TorchExtras(dtypes=dtypes, integers=table.bookkeeping(tensors))
    return Converted(config, leaves, extras)


def _check_ranges(leaves: Mapping[str, np.ndarray]) -> None:
    """Raises `InputError` for values that no training gives, and that make numbers worthless."""
    scale = leaves["logit_scale"].item()
    if not abs(scale) <= _LARGEST_SCALE:
        raise InputError(
            f"logit_scale is {scale:g}, which would multiply cosines by exp({scale:g}): its "
            "logarithm is expected, which CLIP keeps below ln 100 = 4.6"
        )
    negative = [path for path, x in leaves.items() if path.endswith("/var") and (x < 0).any()]
    if negative:
        raise InputError("the checkpoint has negative variances:" + listing(negative))


def match(tensors: Mapping[str, np.ndarray], config: CLIPConfig) -> dict[str, table.Place]:
    """The place of every tensor of a state dict in the model, by torch's name.

    Raises `InputError` listing every tensor that is missing, unexpected or misshapen.
    """
    leaves = flatten(abstract_model(config))
    places = table.places(leaves)
    offences = [f"- {name}: missing" for name in places if name not in tensors]
    offences += [
        f"+ {name} {x.shape}: not a part of a CLIP ResNet"
        for name, x in tensors.items()
        if name not in places and not table.BOOKKEEPING.fullmatch(name)
    ]
    for name, (path, layout) in places.items():
        expected = layout.to_torch(np.broadcast_to(np.float32(0), leaves[path].shape)).shape
        if name in tensors and tensors[name].shape != expected:
            offences.append(f"! {name}: shape {tensors[name].shape}, expected {expected}")
    resolution = table.bookkeeping(tensors).get("input_resolution", config.image_size)
    if resolution != config.image_size:
        offences.append(
            f"! input_resolution: {resolution}, but the positional embedding is for "
            f"{config.image_size} pixels"
        )
    if offences:
        raise InputError(
            f"the checkpoint does not fit a CLIP ResNet of {config}; "
            f"{len(offences)} of {len(places)} tensors:" + listing(offences)
        )
    return places


def to_torch(
    leaves: Mapping[str, np.ndarray | jax.Array], extras: TorchExtras | None = None
) -> dict[str, np.ndarray]:
    """Leaves by path to a state dict in torch's names and layouts.

    With the `extras` of `from_torch`, also in its dtypes and with its integers.
    """
    extras = extras or TorchExtras()
    tensors = {
        name: np.asarray(layout.to_torch(np.asarray(leaves[path])), order="C")
        for name, (path, layout) in table.places(leaves).items()
    }
    tensors = {n: x.astype(np.dtype(extras.dtypes.get(n, x.dtype))) for n, x in tensors.items()}
    return tensors | {name: np.asarray(x, np.int64) for name, x in extras.integers.items()}


def from_state(
    tensors: Mapping[str, np.ndarray], config: CLIPConfig, dtype: DTypeLike = jnp.float32,
    kind: type[ModelT] = CLIP,
) -> ModelT:  # fmt: skip
    """The model, or its image tower alone, of a state dict that `to_torch` gave.

    Of a mapping that reads its tensors when they are asked for, no others are read.
    """
    model = abstract_model(config, dtype, kind)
    places = table.places(flatten(model))
    leaves = {
        path: jnp.asarray(layout.to_ours(tensors[name].astype(np.float32)))
        for name, (path, layout) in places.items()
    }
    return nnx.merge(nnx.graphdef(model), unflatten(leaves))


def digest(leaves: Mapping[str, np.ndarray | jax.Array], config: CLIPConfig) -> str:
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


def _absolute(directory: epath.PathLike) -> Any:
    return paths.absolute(paths.parse(directory))


def save(
    directory: epath.PathLike,
    config: CLIPConfig,
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
    metadata = Metadata(clip=config, digest=digest(leaves, config), **dict(extras))
    tree: Any = {name.replace("/", "."): np.asarray(x) for name, x in leaves.items()}
    size = sum(x.nbytes for x in tree.values())
    disk.check_room(path.parent, size, "the weights", "choose another destination")
    given: Any = {"custom_metadata": metadata.model_dump(mode="json")}
    # Under a name of this process's own: another may be converting to the same place.
    whole: Any = contextlib.nullcontext(path) if paths.is_remote(path) else paths.whole_folder(path)
    try:
        with whole as new, orbax_calls.unfinished_removed(path.parent, new.name):
            orbax_calls.attempt(lambda: ocp.save(new, tree, overwrite=new != path, **given))
    except orbax_calls.FailedError as error:
        raise InputError(f"{path} cannot be written: {error}") from None


def read_metadata(directory: epath.PathLike) -> Metadata:
    """What `save` wrote beside the arrays of an Orbax directory.

    Raises `InputError` where there is no such directory, where it is incomplete, and for a value
    that is not allowed.
    """
    return _read_metadata(_absolute(directory))[0]


def _read_metadata(path: Any) -> tuple[Metadata, dict[str, Any]]:
    """The metadata, and the shape and type of every array that is there."""
    foreign = InputError(
        f"{path} holds no converted weights: make them with "
        f"`python tools/convert_torch_weights.py CHECKPOINT {path}`"
    )
    try:
        found: Any = orbax_calls.attempt(lambda: ocp.metadata(path))
    except orbax_calls.FailedError:
        raise foreign from None
    if "clip" not in (found.custom_metadata or {}):
        raise foreign
    if found.metadata is None:
        raise InputError(f"{path} is incomplete: remove it and convert the weights again")
    return schema.check(Metadata, dict(found.custom_metadata), f"{path}: "), found.metadata


def load(
    directory: epath.PathLike,
    dtype: DTypeLike = jnp.float32,
    sharding: jax.sharding.Sharding | None = None,
) -> CLIP:
    """The model in an Orbax directory, its arrays placed by `sharding`; see `clip.load`.

    Raises `InputError` where the arrays are not those that were saved.
    """
    path = _absolute(directory)
    metadata, found = _read_metadata(path)
    model = abstract_model(metadata.clip, dtype)
    sharding = sharding or jax.sharding.SingleDeviceSharding(devices.available()[0])
    abstract: Any = {
        path.replace("/", "."): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for path, x in flatten(model).items()
    }
    damaged = f"{path} is damaged%s: remove it and convert the weights again"
    if {k: x.shape for k, x in abstract.items()} != {k: x.shape for k, x in found.items()}:
        raise InputError(damaged % ", its arrays are not those of its metadata")
    try:
        tree: Any = orbax_calls.attempt(lambda: ocp.load(path, abstract))
    except orbax_calls.FailedError as error:
        raise InputError(damaged % f" ({error})") from None
    leaves = {path.replace(".", "/"): x for path, x in tree.items()}
    if digest(leaves, metadata.clip) != metadata.digest:
        raise InputError(damaged % ", its arrays are not those that were saved")
    return nnx.merge(nnx.graphdef(model), unflatten(leaves))
