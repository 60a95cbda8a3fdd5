"""Partial tuning: the attention pool and a linear head (cross-modal adaptation, arXiv 2301.06267).

    logits = s unit(pool(dense)) W^T,   the pool and W train, W from the text classifier on

Axes: b images, h rows and w columns of cells, c channels, k classes, d channels of the joint space.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from safe_jax.methods import zero_shot
from safe_jax.methods.zero_shot import Classifier


@dataclasses.dataclass(frozen=True)
class Partial:
    """The method as `train` takes it. Batches have `dense_bhwc`."""

    graphdef: nnx.GraphDef

    @classmethod
    def init(cls, model, text_kd) -> tuple["Partial", dict, jax.Array]:
        """The method; its parameters, copies of the original pool and classifier; the scale."""
        graphdef, pool = nnx.split(model.attnpool)
        params = {"attnpool": nnx.to_pure_dict(pool), "classifier": text_kd}
        params = jax.tree.map(jnp.copy, params)
        return cls(graphdef), params, Classifier.of(model, text_kd).scale

    def loss(self, params, scale, batch) -> jax.Array:
        logits_bk = self.logits(params, scale, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, scale, batch) -> jax.Array:
        feature_bd = nnx.merge(self.graphdef, params["attnpool"])(batch["dense_bhwc"])
        return zero_shot.logits(feature_bd, params["classifier"], scale)
