"""Leaves of a model from a torch state dict, and back.

Reading is strict: the message lists every tensor that is missing, unexpected or misshapen.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax.typing import DTypeLike

from safe_jax.checkpoints import table
from safe_jax.checkpoints.table import Place
from safe_jax.checkpoints.trees import abstract_model, flatten, unflatten
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, listing

# float32 holds the values of each; a file that is kept beside the values is bytes.
DType = Literal["float32", "float16", "bfloat16", "uint8"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of backbone, as its weights are read and written.

    `name` is also where its config stands in the metadata, and `kind` what messages call it.
    `infer_config(tensors, ...)` reads the shape off a checkpoint. `bookkeeping(tensors)` gives
    integers that the model does not use, which are kept and given back. `check` raises
    `InputError` for leaves with values that no training gives. `positions` says where the
    positions of cells are, for images of another size: a path, and how many rows come before them.
    `cell` gives the pixels of a cell's side.
    """

    name: str
    kind: str
    config: type[schema.Model]
    model: type[nnx.Module]
    image_tower: type[nnx.Module]
    rows: Sequence[table.Row]
    infer_config: Callable[..., Any]
    bookkeeping: Callable[[Mapping[str, np.ndarray]], dict[str, int]]
    check: Callable[[Mapping[str, np.ndarray], Any], None]
    positions: tuple[str, int]
    cell: Callable[[Any], int]


class TorchExtras(schema.Model):
    """What a torch checkpoint has beside its values; `to_torch` gives it back."""

    dtypes: dict[str, DType] = pydantic.Field(default_factory=dict)  # of each tensor
    integers: dict[str, int] = pydantic.Field(default_factory=dict)  # that the model does not use


class Converted(NamedTuple):
    """A torch checkpoint as we use it; `leaves` are float32, by path."""

    config: Any  # the family's
    leaves: dict[str, np.ndarray]
    extras: TorchExtras


def from_torch(family: Family, tensors: Mapping[str, np.ndarray], **options: Any) -> Converted:
    """Converts a state dict; `to_torch` is the inverse, bit for bit.

    Args:
        options: what the family's `infer_config` takes beside the tensors.

    Raises `InputError` listing every tensor that does not fit, or has values that are not finite
    or that float32 cannot hold.
    """
    config = family.infer_config(tensors, **options)
    places = match(family, tensors, config)
    names = dict.fromkeys(place.name for place in places.values())
    dtypes: dict[str, Any] = {name: str(tensors[name].dtype) for name in names}
    if others := [f"{name}: {d}" for name, d in dtypes.items() if d not in get_args(DType)]:
        raise InputError("float32 would not hold these bit for bit; cast them:" + listing(others))
    leaves = {path: _leaf(place, tensors[place.name]) for path, place in places.items()}
    unusable = [places[path].name for path, x in leaves.items() if not np.isfinite(x).all()]
    if unusable:
        unusable = list(dict.fromkeys(unusable))
        raise InputError("the checkpoint has values that are not finite:" + listing(unusable))
    family.check(leaves, config)
    extras = TorchExtras(dtypes=dtypes, integers=family.bookkeeping(tensors))
    return Converted(config, leaves, extras)


def check_scale(leaves: Mapping[str, np.ndarray], largest: float) -> None:
    """Raises `InputError` for a `logit_scale` that is not the logarithm of what training gives."""
    scale = leaves["logit_scale"].item()
    if not abs(scale) <= largest:
        raise InputError(
            f"logit_scale is {scale:g}, which would multiply cosines by exp({scale:g}): its "
            f"logarithm is expected, at most {largest:g}"
        )


def _leaf(place: Place, tensor: np.ndarray) -> np.ndarray:
    x = place.layout.to_ours(place.of(tensor))
    return np.asarray(x, None if x.dtype == np.uint8 else np.float32, order="C")


def match(family: Family, tensors: Mapping[str, np.ndarray], config: Any) -> dict[str, Place]:
    """The place of every leaf of the model in a state dict, by path.

    Raises `InputError` listing every tensor that is missing, unexpected or misshapen.
    """
    leaves = flatten(abstract_model(config, kind=family.model))
    places = table.places(family.rows, leaves)
    expected, unused = _torch_shapes(places, leaves), family.bookkeeping(tensors)
    offences = [f"- {name}: missing" for name in expected if name not in tensors]
    offences += [
        f"+ {name} {x.shape}: not a part of a {family.kind}"
        for name, x in tensors.items()
        if name not in expected and name not in unused
    ]
    offences += [
        f"! {name}: shape {tensors[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if offences:
        raise InputError(
            f"the checkpoint does not fit a {family.kind} of {config}; "
            f"{len(offences)} of {len(expected)} tensors:" + listing(offences)
        )
    return places


def _torch_shapes(
    places: Mapping[str, Place], leaves: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path, place in places.items():
        zeros = np.broadcast_to(np.float32(0), leaves[path].shape)
        shape = place.layout.to_torch(zeros).shape
        found[place.name] = shape if place.third is None else (3 * shape[0], *shape[1:])
    return found


def to_torch(
    family: Family,
    leaves: Mapping[str, np.ndarray | jax.Array],
    extras: TorchExtras | None = None,
) -> dict[str, np.ndarray]:
    """Leaves by path to a state dict in torch's names and layouts.

    With the `extras` of `from_torch`, also in its dtypes and with its integers.
    """
    extras = extras or TorchExtras()
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, place in table.places(family.rows, leaves).items():
        x = place.layout.to_torch(np.asarray(leaves[path]))
        parts.setdefault(place.name, {})[place.third or 0] = x
    tensors = {
        name: np.asarray(np.concatenate([x for _, x in sorted(of_name.items())]), order="C")
        if len(of_name) > 1
        else np.asarray(*of_name.values(), order="C")
        for name, of_name in parts.items()
    }
    tensors = {n: x.astype(np.dtype(extras.dtypes.get(n, x.dtype))) for n, x in tensors.items()}
    return tensors | {name: np.asarray(x, np.int64) for name, x in extras.integers.items()}


def from_state(
    family: Family, tensors: Mapping[str, np.ndarray], config: Any,
    dtype: DTypeLike = jnp.float32, kind: type[nnx.Module] | None = None,
) -> Any:  # fmt: skip
    """The model, or another `kind` such as its image tower, of a state dict of `to_torch`.

    Of a mapping that reads its tensors when they are asked for, no others are read.
    """
    model = abstract_model(config, dtype, kind=kind or family.model)
    places = table.places(family.rows, flatten(model))
    leaves = {path: jnp.asarray(_leaf(p, tensors[p.name])) for path, p in places.items()}
    return nnx.merge(nnx.graphdef(model), unflatten(leaves))
