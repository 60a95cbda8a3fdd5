"""Linear probe: a classifier on the original pool's features, tuned from the text classifier on.

    logits = s unit(f) W^T,   W starts at the text classifier and trains

Axes: b images, k classes, d channels of the joint space.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from safe_jax.methods import zero_shot
from safe_jax.methods.zero_shot import Classifier


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """The method as `train` takes it. Batches have `original_bd`."""

    @classmethod
    def init(cls, model, text_kd) -> tuple["LinearProbe", dict, jax.Array]:
        """The method; its parameters, a copy of the text classifier; the scale."""
        return cls(), {"classifier": jnp.copy(text_kd)}, Classifier.of(model, text_kd).scale

    def loss(self, params, scale, batch) -> jax.Array:
        logits_bk = self.logits(params, scale, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, scale, batch) -> jax.Array:
        return zero_shot.logits(batch["original_bd"], params["classifier"], scale)
