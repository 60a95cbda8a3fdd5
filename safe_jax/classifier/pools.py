"""The arrays of a batch that are computed from dense maps: by the original pool, or by a tuned one.

Axes: b images, h rows and w columns of cells, c channels, d channels of the joint space.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
from flax import nnx

from safe_jax.backbones.contract import ImageTower

Params = Any  # a pool's parameters, as a tree


class Pools(NamedTuple):
    """The original pool, and the one that the first method of `after` tuned, if there is one."""

    graphdef: nnx.GraphDef
    original: Params
    tuned: Params | None = None

    @classmethod
    def of(cls, tower: ImageTower, tuned: Params | None = None) -> Self:
        graphdef, original = nnx.split(tower.attnpool)
        return cls(graphdef, nnx.to_pure_dict(original), tuned)

    def functions(self, takes: Sequence[str]) -> dict[str, Callable]:
        """What computes the arrays of `takes` that no bank holds, each from maps `(b, h, w, c)`."""
        functions: dict[str, Callable] = {}
        if "unprojected_bu" in takes:
            functions["unprojected_bu"] = self._function(self.original, "unprojected")
        if "tuned_bd" in takes:
            functions["tuned_bd"] = self._function(self.tuned, "__call__")
        return functions

    def _function(self, params, function):
        return functools.partial(_apply, self.graphdef, params, function=function)


@functools.partial(jax.jit, static_argnames=("graphdef", "function"))
def _apply(graphdef, params, dense_bhwc, *, function):
    return getattr(nnx.merge(graphdef, params), function)(dense_bhwc)


@functools.partial(jax.jit, static_argnames="graphdef")
def attention(
    graphdef: nnx.GraphDef, pools: dict[str, Params], dense_bhwc: jax.Array
) -> dict[str, jax.Array]:
    """Where each of `pools` looks, `(b, h, w)`: the mean over heads, summing to 1 over cells."""
    return {
        name: nnx.merge(graphdef, params).attention(dense_bhwc).mean(-1)
        for name, params in pools.items()
    }
