"""SAFE: tune the attention pool, then blend it with the original (arXiv 2311.04464).

Axes: b images, h rows and w columns of cells, c channels, d channels of the joint space,
k classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from safe_jax.methods.zero_shot import unit

BLENDS = ("feature", "unit", "logit")


def blended_logits(tuned_bd, original_bd, text_kd, scale, alpha, blend: str) -> jax.Array:
    """Logits `(b, k)` at `alpha` between the original pool (0) and the tuned one (1).

    The paper's abstract blends features and does not say whether before or after they are made
    unit; RA-FT blends logits. So `blend` is one of

        feature: unit(alpha * tuned + (1 - alpha) * original)
        unit:    unit(alpha * unit(tuned) + (1 - alpha) * unit(original))
        logit:   alpha * logits(unit(tuned)) + (1 - alpha) * logits(unit(original))

    The last two put classes in the same order, and differ in how sure they are.

    Args:
        text_kd: the classifier, rows of unit length.
        scale: what multiplies a cosine, `exp(logit_scale)`.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {BLENDS}, not {blend!r}")
    if blend != "feature":
        tuned_bd, original_bd = unit(tuned_bd), unit(original_bd)
    blended_bd = alpha * tuned_bd + (1 - alpha) * original_bd
    if blend != "logit":  # logits are linear in features: blending those is the same, and cheaper
        blended_bd = unit(blended_bd)
    return scale * blended_bd @ text_kd.T


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """What turns a feature into logits and never trains: `text_kd` and `exp(logit_scale)`."""

    text_kd: jax.Array
    scale: jax.Array


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
        classifier = Classifier(text_kd, jnp.exp(model.logit_scale[...]))
        return cls(graphdef, config.blend, config.train_alpha), params, classifier

    def loss(self, params, classifier, batch) -> jax.Array:
        """Cross entropy `(b,)` of the blend at `train_alpha`: 1 tunes the pool by itself."""
        logits_bk = self.logits(params, classifier, batch)({"alpha": self.train_alpha})
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params, classifier, batch):
        """A function from a point of the grid to logits `(b, k)`; the pool runs once for all."""
        tuned_bd = nnx.merge(self.graphdef, params["attnpool"])(batch["dense_bhwc"])

        def at(point):
            return blended_logits(
                tuned_bd,
                batch["original_bd"],
                classifier.text_kd,
                classifier.scale,
                point["alpha"],
                self.blend,
            )

        return at

    @staticmethod
    def grid(config) -> dict[str, np.ndarray]:
        """What selection chooses from; a single point where `alpha` is fixed."""
        if config.selection == "fixed":
            return {"alpha": np.array([config.alpha])}
        return {"alpha": np.linspace(0, 1, config.alpha_grid_size).round(6)}
