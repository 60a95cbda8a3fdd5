"""Linear probe: a classifier on the original pool's features, tuned from the text classifier on.

logits = s unit(f) C^T,   C starts at the text classifier W and trains
"""

import dataclasses
from typing import Any

from safe_jax.methods.contract import Base, Batch, Params, Setting, Start, TunedKnobs
from safe_jax.methods.text_head import cosine_logits, cross_entropy
from safe_jax.runtime.lazy import jax
from safe_jax.runtime.schema import Pattern, knob


class LinearProbeKnobs(TunedKnobs):
    trainable: Pattern = knob("classifier", "parameters whose whole path matches it are trained")


@dataclasses.dataclass(frozen=True)
class LinearProbe(Base):
    """The only parameter is `classifier`, `(k, d)`; the context is the scale."""

    label = "linear probe"
    knobs = LinearProbeKnobs
    context = None

    @classmethod
    def start(cls, setting: Setting, settings: Any) -> Start:
        return Start(cls(), {"classifier": setting.head.text_kd}, setting.head.scale)

    def loss(self, params: Params, context: "jax.Array", batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch), batch)

    def logits(self, params: Params, context: "jax.Array", batch: Batch) -> "jax.Array":
        return cosine_logits(batch["original_bd"], params["classifier"], context)
