"""Partial tuning: the attention pool and a linear head (cross-modal adaptation, arXiv 2301.06267).

logits = s unit(pool(dense)) C^T,   the pool and C train, C from the text classifier on
"""

import dataclasses
from typing import Any

from safe_jax.methods.contract import Base, Batch, Params, Rate, Setting, Start, TunedKnobs
from safe_jax.methods.text_head import cosine_logits, cross_entropy
from safe_jax.runtime.lazy import jax, nnx
from safe_jax.runtime.schema import Pattern, knob


class PartialKnobs(TunedKnobs):
    trainable: Pattern = knob(
        "attnpool/.*|classifier", "parameters whose whole path matches it are trained"
    )
    learning_rate: Rate = knob(1e-5, "the peak, after the warm-up")


@dataclasses.dataclass(frozen=True)
class Partial(Base):
    """The parameters are at first the original pool and the text rows; the context is s."""

    label = "pool + linear head"
    knobs = PartialKnobs
    takes = ("dense_bhwc", "original_bd")
    needs_bank = False
    context = None

    graphdef: "nnx.GraphDef"

    @classmethod
    def start(cls, setting: Setting, settings: Any) -> Start:
        graphdef, pool = nnx.split(setting.model.attnpool)
        params = {"attnpool": nnx.to_pure_dict(pool), "classifier": setting.head.text_kd}
        return Start(cls(graphdef), params, setting.head.scale)

    def loss(self, params: Params, context: "jax.Array", batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch), batch)

    def logits(self, params: Params, context: "jax.Array", batch: Batch) -> "jax.Array":
        feature_bd = nnx.merge(self.graphdef, params["attnpool"])(batch["dense_bhwc"])
        return cosine_logits(feature_bd, params["classifier"], context)
