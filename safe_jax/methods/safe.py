"""SAFE: tune the attention pool, then blend it with the original (arXiv 2311.04464).

Axes: b images, h rows and w columns of cells, c channels, d channels of the joint space, k classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from safe_jax.methods.zero_shot import Classifier, unit

BLENDS = ("feature", "unit", "logit")


def blended_features(tuned_bd, original_bd, alpha, blend: str) -> jax.Array:
    """Features `(b, d)` at `alpha` between the original pool (0) and the tuned one (1).

    The paper's abstract blends features and does not say whether before or after they are made
    unit; RA-FT blends logits. So `blend` is one of

        feature: unit(alpha * tuned + (1 - alpha) * original)
        unit:    unit(alpha * unit(tuned) + (1 - alpha) * unit(original))
        logit:   alpha * unit(tuned) + (1 - alpha) * unit(original)

    Logits are linear in features: the last blends logits, and is cheaper. The last two put classes
    in the same order, and differ in how sure they are.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {BLENDS}, not {blend!r}")
    if blend != "feature":
        tuned_bd, original_bd = unit(tuned_bd), unit(original_bd)
    blended_bd = alpha * tuned_bd + (1 - alpha) * original_bd
    return blended_bd if blend == "logit" else unit(blended_bd)


def blended_logits(tuned_bd, original_bd, text_kd, scale, alpha, blend: str) -> jax.Array:
    """Logits `(b, k)` of `blended_features`.

    Args:
        text_kd: the classifier, rows of unit length.
        scale: what multiplies a cosine, `exp(logit_scale)`.
    """
    return scale * blended_features(tuned_bd, original_bd, alpha, blend) @ text_kd.T


@dataclasses.dataclass(frozen=True)
class Safe:
    """The method as `train` takes it: parameters, their loss, and logits over a grid.

    Fields are what is compiled in. Batches have `dense_bhwc` and `original_bd`, the original
    pool's features of it.
    """

    graphdef: nnx.GraphDef
    blend: str
    train_alpha: float

    @classmethod
    def init(cls, model, text_kd, config) -> tuple["Safe", dict, Classifier]:
        """The method for this model; its parameters, copied from the original pool; the rest."""
        graphdef, params = nnx.split(model.attnpool)
        params = {"attnpool": jax.tree.map(jnp.copy, nnx.to_pure_dict(params))}
        method = cls(graphdef, config.blend, config.train_alpha)
        return method, params, Classifier.of(model, text_kd)

    def loss(self, params, classifier, batch) -> jax.Array:
        """Cross entropy `(b,)` of the blend at `train_alpha`: 1 tunes the pool by itself."""
        logits_bk = self.logits(params, classifier, batch)(self.train_alpha)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, classifier, batch):
        """A function from alpha to logits `(b, k)`; the pool runs once for all."""
        tuned_bd = nnx.merge(self.graphdef, params["attnpool"])(batch["dense_bhwc"])

        def at(alpha):
            return blended_logits(
                tuned_bd,
                batch["original_bd"],
                classifier.text_kd,
                classifier.scale,
                alpha,
                self.blend,
            )

        return at


def grid(config) -> dict[str, np.ndarray]:
    """What selection chooses from; a single point where `alpha` is fixed."""
    if config.selection == "fixed":
        return {"alpha": np.array([config.alpha])}
    return {"alpha": np.linspace(0, 1, config.alpha_grid_size).round(6)}
