"""Tip-Adapter and Tip-Adapter-F (arXiv 2207.09519): a cache on the original pool's features.

Tip-Adapter trains nothing. Tip-Adapter-F tunes the keys, starting from Tip-Adapter's, and keeps the
last epoch's: the authors keep the one that is best on test images.

Axes: see `cache.py`; v views.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from safe_jax.methods import cache, zero_shot
from safe_jax.methods.zero_shot import Classifier, unit


class Settings(NamedTuple):
    """The authors' for a data set: where the grid ends, and the `a` that keys are tuned with."""

    b_max: float
    a_max: float
    a: float


SETTINGS = {
    "imagenet": Settings(7, 3, 1.17),
    "caltech101": Settings(12, 5, 3),
    "dtd": Settings(13, 13, 2),
    "eurosat": Settings(12, 10, 2),
    "fgvc_aircraft": Settings(30, 30, 5),
    "food101": Settings(10, 10, 1.17),
    "oxford_flowers": Settings(50, 50, 10),
    "oxford_pets": Settings(7, 3, 1.17),
    "stanford_cars": Settings(20, 10, 3),
    "sun397": Settings(12, 10, 1.17),
    "ucf101": Settings(7, 3, 3),
}
OTHERS = Settings(12, 10, 2)  # the medians of those


@dataclasses.dataclass(frozen=True)
class TipAdapter:
    """The method as `train` takes it. Batches have `original_bd`; keys are tuned at `b` and `a`."""

    b: float
    a: float

    @classmethod
    def init(cls, model, text_kd, support_nvd, label_n, config):
        """The method; its keys, one for each support image; the rest.

        Args:
            support_nvd: the original pool's features of the support images' views, averaged before
                they are made unit, as the authors do.
        """
        slots = cache.Slots.of(label_n, len(text_kd))
        keys_nd = unit(jnp.asarray(support_nvd).mean(1))
        context = cache.Context(Classifier.of(model, text_kd), jnp.asarray(slots.filled_ks))
        return cls(config.b, config.a), {"keys": keys_nd[slots.image_ks]}, context

    def loss(self, params, context, batch) -> jax.Array:
        logits_bk = self.logits(params, context, batch)(self.b)(self.a)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, context, batch):
        """A function from b to one from a to logits `(b, k)`."""
        feature_bd = unit(batch["original_bd"])
        classifier = context.classifier
        logits_bk = zero_shot.logits(feature_bd, classifier.text_kd, classifier.scale)
        return cache.cached_logits(feature_bd, logits_bk, params["keys"], context.filled_ks)
