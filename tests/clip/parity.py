"""Models with the tensors of a torch state dict, and their distance from the torch reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP


def as_numpy(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in state.items()}


def load(state: dict[str, torch.Tensor], activation: str = "quick_gelu") -> CLIP:
    converted = state_dict.from_torch(FAMILY, as_numpy(state), activation=activation)
    model = trees.abstract_model(converted.config, kind=CLIP)
    leaves = jax.tree.map(jnp.asarray, converted.leaves)
    return nnx.merge(nnx.graphdef(model), trees.unflatten(leaves))


@functools.partial(jax.jit, static_argnames="method")
def call(model: nnx.Module, method: str, x) -> jax.Array:
    return getattr(model, method)(x)


fold = jax.jit(lambda model: model.folded())  # compiled at once, not an operation at a time


def to_torch(images_bhwc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images_bhwc).permute(0, 3, 1, 2)


def relative(found, expected) -> float:
    """The largest difference, relative to the largest expected value."""
    expected = np.asarray(expected)
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
