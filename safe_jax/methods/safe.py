"""SAFE: tune the attention pool, then blend it with the original (arXiv 2311.04464).

    logits = s unit(alpha f_tuned + (1 - alpha) f_original) W^T

Axes: b images, h rows and w columns of cells, c channels, d channels of the joint space, k classes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import AfterValidator

from safe_jax.methods.contract import (
    Base,
    Batch,
    Fitted,
    Grid,
    Params,
    SelectionSettings,
    Setting,
    Start,
)
from safe_jax.methods.text_head import TextHead, cross_entropy, unit
from safe_jax.runtime.lazy import jax, nnx
from safe_jax.runtime.schema import Bounds, Fraction, knob

Blend = Literal["feature", "unit", "logit"]
BLENDS = get_args(Blend)


class SafeSettings(SelectionSettings):
    """SAFE's knobs, which stand at the top of a config."""

    blend: Blend = knob("feature", "where pools are blended; methods/safe.py has the formulas")
    train_alpha: Annotated[float, AfterValidator(Bounds(gt=0, le=1))] = knob(
        1.0, "tune through this blend; 1: the tuned pool by itself"
    )
    alpha: Fraction = knob(0.5, "the blend where selection is fixed")
    alpha_grid_size: Annotated[int, AfterValidator(Bounds(ge=2, le=1001))] = knob(
        21, "values from 0 to 1 among which alpha is chosen"
    )


def blended_features(
    tuned_bd: "jax.Array", original_bd: "jax.Array", alpha: "jax.Array | float", blend: str
) -> "jax.Array":
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


def alpha_grid(settings: SafeSettings) -> Grid:
    """The alphas among which selection chooses; a single one where `alpha` is fixed."""
    if settings.selection == "fixed":
        return {"alpha": np.array([settings.alpha])}
    return {"alpha": np.linspace(0, 1, settings.alpha_grid_size).round(6)}


@dataclasses.dataclass(frozen=True)
class Safe(Base):
    """The parameters are `attnpool`, at first the original pool; the context is the text head."""

    label = "SAFE"
    settings = SafeSettings
    takes = ("dense_bhwc", "original_bd")
    needs_bank = False
    blends = True
    open_classes = True

    graphdef: "nnx.GraphDef"
    blend: str
    train_alpha: float

    @classmethod
    def start(cls, setting: Setting, settings: SafeSettings) -> Start:
        graphdef, pool = nnx.split(setting.model.attnpool)
        params = {"attnpool": nnx.to_pure_dict(pool)}
        return Start(cls(graphdef, settings.blend, settings.train_alpha), params, setting.head)

    @classmethod
    def grid(cls, settings: SafeSettings, earlier: Mapping[str, Fitted]) -> Grid:
        return alpha_grid(settings)

    def loss(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        """Cross entropy `(b,)` of the blend at `train_alpha`."""
        return cross_entropy(self.logits(params, context, batch)(self.train_alpha), batch)

    def logits(
        self, params: Params, context: TextHead, batch: Batch
    ) -> Callable[["jax.Array | float"], "jax.Array"]:
        """A function from alpha to logits `(b, k)`; the pool runs once for all alphas."""
        tuned_bd = nnx.merge(self.graphdef, params["attnpool"])(batch["dense_bhwc"])

        def at(alpha):
            feature_bd = blended_features(tuned_bd, batch["original_bd"], alpha, self.blend)
            return context.scale * feature_bd @ context.text_kd.T

        return at
