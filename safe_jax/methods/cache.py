"""A cache of support images: what Tip-Adapter puts beside a classifier (arXiv 2207.09519).

    logits = s f W^T + a exp(-b (1 - f K^T)) V

with unit features f, one unit key (a row of K) and a one-hot value (a row of V) for each support
image. A product with one-hot values is a sum over each class's own keys, so the keys are kept by
class: V is never formed, and with 16 shots of 1000 classes the sum is a thousandth of the product.

Axes: b images, k classes, s slots of a class for support images, d channels of the joint space.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from safe_jax.methods.zero_shot import Classifier


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Which support image is in which slot: `image_ks`, and `filled_ks`, 0 where there is none."""

    image_ks: np.ndarray
    filled_ks: np.ndarray

    @classmethod
    def of(cls, label_n: np.ndarray, classes: int) -> "Slots":
        """A slot for every image; classes that have fewer leave the last ones empty."""
        counts = np.bincount(label_n, minlength=classes)
        filled_ks = np.arange(counts.max()) < counts[:, None]
        image_ks = np.zeros(filled_ks.shape, np.int32)
        image_ks[filled_ks] = np.argsort(label_n, kind="stable")
        return cls(image_ks, filled_ks.astype(np.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What a step reads beside the keys: the classifier, and which slots are filled.

    `alpha` is the one that SAFE-A's keys are tuned at.
    """

    classifier: Classifier
    filled_ks: jax.Array
    alpha: jax.Array | None = None


def cached_logits(feature_bd, classifier_logits_bk, keys_ksd, filled_ks):
    """A function from b to one from a to logits `(b, k)`: exponentials are taken once for all a."""
    cosine_bks = jnp.einsum("bd,ksd->bks", feature_bd, keys_ksd)

    def at_b(b):
        cache_bk = (filled_ks * jnp.exp(-b * (1 - cosine_bks))).sum(-1)
        return lambda a: classifier_logits_bk + a * cache_bk

    return at_b


def grid(config) -> dict[str, np.ndarray]:
    """Tip-Adapter's values of b, then of a: even steps from 0.1 on, without the end point.

    A single point, the values that keys are tuned with, where `selection` is fixed.
    """
    if config.selection == "fixed":
        return {"b": np.array([config.b]), "a": np.array([config.a])}
    return {
        name: np.linspace(0.1, config[f"{name}_max"], config[f"{name}_steps"], endpoint=False)
        for name in ("b", "a")
    }
