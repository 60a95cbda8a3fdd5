"""SAFE-A: SAFE with Tip-Adapter's cache on its own features.

    logits = s f W^T + a exp(-b (1 - f K^T)) V

f is SAFE's feature at alpha, K the support images' (the mean over views of each pool, blended at
alpha, made unit). The paper's abstract names no cache; this form is ours. The keys are computed
for every alpha, or tuned from those of one alpha on, as Tip-Adapter-F tunes them.

Axes: see `cache.py`; v views.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.methods import cache, safe
from safe_jax.methods.zero_shot import Classifier, unit


@dataclasses.dataclass(frozen=True)
class SafeA:
    """The method as `train` takes it. Batches have `tuned_bd` and `original_bd`.

    Parameters are the pools' features of the support images, from which keys are made at any
    alpha; or `keys`, which are tuned at the context's `alpha`, and at `b` and `a`.
    """

    blend: str
    b: float
    a: float

    @classmethod
    def init(cls, model, text_kd, tuned_nvd, original_nvd, label_n, config):
        """The method, its parameters (nothing of them is tuned), and the rest."""
        slots = cache.Slots.of(label_n, len(text_kd))
        support = {
            "tuned": jnp.asarray(tuned_nvd).mean(1)[slots.image_ks],
            "original": jnp.asarray(original_nvd).mean(1)[slots.image_ks],
        }
        context = cache.Context(Classifier.of(model, text_kd), jnp.asarray(slots.filled_ks))
        return cls(config.blend, config.b, config.a), support, context

    def with_keys(self, support, context, alpha: float) -> tuple[dict, cache.Context]:
        """Parameters and context with keys to be tuned, from those at `alpha` on."""
        context = dataclasses.replace(context, alpha=jnp.float32(alpha))
        return {"keys": self._keys(support, alpha)}, context

    def _keys(self, params, alpha):
        if "keys" in params:
            return params["keys"]
        return unit(safe.blended_features(params["tuned"], params["original"], alpha, self.blend))

    def loss(self, params, context, batch) -> jax.Array:
        logits_bk = self.logits(params, context, batch)(context.alpha)(self.b)(self.a)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, context, batch):
        """A function from alpha to one from b to one from a to logits `(b, k)`."""

        def at_alpha(alpha):
            tuned_bd, original_bd = batch["tuned_bd"], batch["original_bd"]
            feature_bd = safe.blended_features(tuned_bd, original_bd, alpha, self.blend)
            classifier = context.classifier
            logits_bk = classifier.scale * feature_bd @ classifier.text_kd.T
            return cache.cached_logits(
                unit(feature_bd), logits_bk, self._keys(params, alpha), context.filled_ks
            )

        return at_alpha


def grid(config, alpha: float | None = None) -> dict[str, np.ndarray]:
    """SAFE's alphas, or the one that keys are tuned at; then the cache's b and a."""
    alphas = safe.grid(config) if alpha is None else {"alpha": np.array([alpha])}
    return alphas | cache.grid(config)
