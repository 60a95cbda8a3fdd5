"""CLIP-Adapter (arXiv 2110.04544): a bottleneck on the original pool's features.

    logits = s unit(r relu(relu(f D) U) + (1 - r) f) W^T

D and U, without biases, train at the ratio r at which they are used.

Axes: b images, k classes, d channels of the joint space, e = d / reduction.
"""

import dataclasses

import jax
import optax

from safe_jax.methods import zero_shot
from safe_jax.methods.zero_shot import Classifier
from safe_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class ClipAdapter:
    """The method as `train` takes it. Batches have `original_bd`, not normalised."""

    ratio: float

    @classmethod
    def init(cls, model, text_kd, config, seed: int) -> tuple["ClipAdapter", dict, Classifier]:
        """The method; its parameters, drawn from `seed` as torch draws a linear layer; the rest.

        Raises `InputError` where nothing would be left of the features.
        """
        d = text_kd.shape[1]
        e = d // config.reduction
        if not e:
            raise InputError(
                f"config.clip_adapter.reduction={config.reduction}: the features have {d} channels"
            )
        down, up = jax.random.split(jax.random.key(seed))
        params = {
            "down": jax.random.uniform(down, (d, e), minval=-1, maxval=1) * d**-0.5,
            "up": jax.random.uniform(up, (e, d), minval=-1, maxval=1) * e**-0.5,
        }
        return cls(config.ratio), params, Classifier.of(model, text_kd)

    def loss(self, params, classifier, batch) -> jax.Array:
        logits_bk = self.logits(params, classifier, batch)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, classifier, batch) -> jax.Array:
        feature_bd = batch["original_bd"]
        adapted_bd = jax.nn.relu(jax.nn.relu(feature_bd @ params["down"]) @ params["up"])
        blended_bd = self.ratio * adapted_bd + (1 - self.ratio) * feature_bd
        return zero_shot.logits(blended_bd, classifier.text_kd, classifier.scale)
