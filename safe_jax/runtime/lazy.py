"""JAX and its libraries, imported when they are first used.

A method's module is also its declaration: reports, help texts and the checks of a config read its
name and its knobs, and should not wait two seconds for libraries that they do not use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx
else:

    class _Module:
        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    jax, jnp, optax, nnx = map(_Module, ("jax", "jax.numpy", "optax", "flax.nnx"))

__all__ = ["jax", "jnp", "nnx", "optax"]
