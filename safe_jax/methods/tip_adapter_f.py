"""Tip-Adapter-F (arXiv 2207.09519): Tip-Adapter with its keys tuned.

The last epoch's keys are kept; the authors keep those of the epoch that is best on test images.
"""

import dataclasses
from typing import Annotated, Self

from pydantic import AfterValidator

from safe_jax.methods.contract import BatchSize, Epsilon, TunedKnobs, WarmupEpochs
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.runtime.schema import Bounds, Pattern, knob


class TunedKeysKnobs(TunedKnobs):
    """How keys are tuned, here and in SAFE-A."""

    trainable: Pattern = knob("keys", "parameters whose whole path matches it are trained")
    eps: Epsilon = knob(1e-4, "Adam's epsilon")
    epochs: Annotated[int, AfterValidator(Bounds(ge=0, le=10_000))] = knob(
        0, "passes over the training images; 0: the authors' for the data set"
    )
    warmup_epochs: WarmupEpochs = knob(0.0, "the rate climbs linearly for so long")
    batch_size: BatchSize = knob(256, "images of a step")

    def for_dataset(self, benchmark: str) -> Self:
        authors_epochs = 100 if benchmark == "eurosat" else 20
        return self.model_copy(update={"epochs": self.epochs or authors_epochs})


@dataclasses.dataclass(frozen=True)
class TipAdapterF(TipAdapter):
    """As `TipAdapter`; its keys train at `b` and `a`."""

    label = "Tip-Adapter-F"
    knobs = TunedKeysKnobs
    shares = ("tip_adapter",)
    tunes = True
