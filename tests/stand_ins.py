"""Stand-ins for tests that need some method, whichever it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from safe_jax.methods.contract import Batch, Fitted, Grid, Params, Setting, Start, TunedKnobs
from safe_jax.runtime.schema import Positive, knob


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A method that was tuned and chosen before: a `contract.Fitted`."""

    params: Params = dataclasses.field(default_factory=dict)
    point: dict[str, float] = dataclasses.field(default_factory=dict)


class ScaledKnobs(TunedKnobs):
    """The knobs of `Scaled`."""

    scales: Positive = knob(3, "how many scales there are to choose from")


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A linear classifier with a scale to choose: the contract without `contract.Base`.

    logits = scale * (f C^T + bias)

    The parameters are `classifier` `(k, d)` and `bias` `(k,)`; the context is the loss's scale.
    """

    label = "scaled linear"
    knobs = ScaledKnobs
    shares = ()
    settings = ScaledKnobs
    takes = ("original_bd",)
    after = ()
    tunes = True
    needs_bank = True
    context = None
    open_classes = False
    blends = False

    @classmethod
    def start(cls, setting: Setting, settings: ScaledKnobs) -> Start:
        text_kd = setting.head.text_kd
        params = {"classifier": jnp.copy(text_kd), "bias": jnp.zeros(len(text_kd))}
        return Start(cls(), params, jnp.float32(1))

    @classmethod
    def grid(cls, settings: ScaledKnobs, earlier: Mapping[str, Fitted]) -> Grid:
        return {"scale": np.arange(1.0, settings.scales + 1)}

    def loss(self, params: Params, context: Any, batch: Batch) -> jax.Array:
        logits_bk = self.logits(params, context, batch)(context)
        return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])

    def logits(self, params: Params, context: Any, batch: Batch) -> Any:
        logits_bk = batch["original_bd"] @ params["classifier"].T + params["bias"]
        return lambda scale: scale * logits_bk
