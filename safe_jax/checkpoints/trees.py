"""Models and their leaves: shapes before there are arrays, arrays by path, parts of a model."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jax.typing import DTypeLike

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


def abstract_model(config: Any, dtype: DTypeLike = jnp.float32, *, kind: type[ModuleT]) -> ModuleT:
    """The model of a config with shapes in place of arrays: nothing is allocated."""
    keys = cast(nnx.Rngs, _OneKey())
    make: Any = kind
    return nnx.eval_shape(lambda: make(config, dtype=dtype, rngs=keys))


def restricted(model: Any, kind: type[ModuleT]) -> ModuleT:
    """The part of a model that another class describes, with the same arrays."""
    part = abstract_model(model.config, model.dtype, kind=kind)
    names = nnx.to_pure_dict(nnx.state(part))
    parts = {name: nnx.to_pure_dict(nnx.state(getattr(model, str(name)))) for name in names}
    return nnx.merge(nnx.graphdef(part), parts)


class _OneKey:
    """Stands in for `nnx.Rngs`, whose counter makes tracing quadratic in the number of layers."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


def flatten(model: Any) -> dict[str, jax.Array]:
    """The model's leaves by path, such as `attnpool/c_proj/kernel`."""
    leaves: Any = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    return {"/".join(map(str, path)): x for path, x in leaves.items()}


def unflatten(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """The inverse of `flatten`, as a tree for `nnx.merge`."""
    return traverse_util.unflatten_dict(
        {tuple(int(k) if k.isdigit() else k for k in path.split("/")): x
         for path, x in leaves.items()}
    )  # fmt: skip
