"""Zero-shot CLIP: the original pool's features and the text classifier, nothing tuned.

logits = s unit(f) W^T
"""

import dataclasses
from typing import Any

from safe_jax.methods.contract import Base, Batch, Params, Setting, Start
from safe_jax.methods.text_head import TextHead, cross_entropy
from safe_jax.runtime.lazy import jax


@dataclasses.dataclass(frozen=True)
class ZeroShot(Base):
    """The context is the text head; there are no parameters."""

    label = "zero-shot"
    tunes = False
    needs_bank = False
    open_classes = True

    @classmethod
    def start(cls, setting: Setting, settings: Any) -> Start:
        return Start(cls(), {}, setting.head)

    def loss(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch), batch)

    def logits(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        return context.logits(batch["original_bd"])
