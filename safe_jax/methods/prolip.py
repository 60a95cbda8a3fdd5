"""ProLIP (arXiv 2410.05270): tunes the pool's last projection alone, held near its start.

    loss = cross entropy of s unit(z A + bias) W^T  +  lambda ||A - A0||^2

A is `c_proj`'s weight; the bias stays. What reaches the projection, z, never changes, so it is
computed once, as the authors do. lambda is 1 / shots by their default.

Axes: b images, c channels of the pool, k classes, d channels of the joint space.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from safe_jax.methods import zero_shot
from safe_jax.methods.zero_shot import Classifier


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What a step reads beside the projection: the classifier, A0 and lambda."""

    classifier: Classifier
    start_cd: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class ProLIP:
    """The method as `train` takes it. Batches have `unprojected_bc`."""

    @classmethod
    def init(cls, model, text_kd, weight: float) -> tuple["ProLIP", dict, Context]:
        """The method; its parameters, a copy of `c_proj`; the rest.

        Args:
            weight: lambda.
        """
        c_proj = nnx.to_pure_dict(nnx.state(model.attnpool.c_proj))
        context = Context(Classifier.of(model, text_kd), c_proj["kernel"], jnp.float32(weight))
        return cls(), {"c_proj": jax.tree.map(jnp.copy, c_proj)}, context

    def loss(self, params, context, batch) -> jax.Array:
        """`(b,)`; the mean has the distance once, whatever the number of images."""
        logits_bk = self.logits(params, context, batch)
        distance = jnp.square(params["c_proj"]["kernel"] - context.start_cd).sum()
        return (
            optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])
            + context.weight * distance
        )

    def logits(self, params, context, batch) -> jax.Array:
        c_proj, classifier = params["c_proj"], context.classifier
        feature_bd = batch["unprojected_bc"] @ c_proj["kernel"] + c_proj["bias"]
        return zero_shot.logits(feature_bd, classifier.text_kd, classifier.scale)
