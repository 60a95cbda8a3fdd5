"""CLIP-Adapter (arXiv 2110.04544): a bottleneck on the original pool's features.

    logits = s unit(r relu(relu(f D) U) + (1 - r) f) W^T

D and U, without biases, train at the ratio r at which they are used.

Axes: b images, k classes, d channels of the joint space, e = d / reduction.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from safe_jax.methods.contract import Base, Batch, Params, Setting, Start, TunedKnobs
from safe_jax.methods.text_head import TextHead, cross_entropy
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.lazy import jax
from safe_jax.runtime.schema import Bounds, Fraction, Pattern, knob


class ClipAdapterKnobs(TunedKnobs):
    trainable: Pattern = knob("down|up", "parameters whose whole path matches it are trained")
    ratio: Fraction = knob(0.2, "the adapted feature's part of the blend, r")
    reduction: Annotated[int, AfterValidator(Bounds(ge=1, le=65_536))] = knob(
        4, "how many times narrower than the features the bottleneck is"
    )


@functools.cache
def _draw_fn(d: int, e: int) -> Callable[[np.uint32], Params]:
    """From a seed to D and U: a single program, where each draw by itself would be several."""

    def draw(seed):
        down, up = jax.random.split(jax.random.key(seed))
        return {
            "down": jax.random.uniform(down, (d, e), minval=-1, maxval=1) * d**-0.5,
            "up": jax.random.uniform(up, (e, d), minval=-1, maxval=1) * e**-0.5,
        }

    return jax.jit(draw)


@dataclasses.dataclass(frozen=True)
class ClipAdapter(Base):
    """The parameters are `down` `(d, e)` and `up` `(e, d)`; the context is the text head."""

    label = "CLIP-Adapter"
    knobs = ClipAdapterKnobs
    settings = ClipAdapterKnobs
    open_classes = True

    ratio: float

    @classmethod
    def start(cls, setting: Setting, settings: ClipAdapterKnobs) -> Start:
        """D and U are drawn from the seed as torch draws a linear layer.

        Raises `InputError` where the reduction leaves no channel.
        """
        d = setting.head.text_kd.shape[1]
        e = d // settings.reduction
        if not e:
            raise InputError(
                f"config.clip_adapter.reduction={settings.reduction}: the features have {d} "
                "channels, and none would be left"
            )
        return Start(cls(settings.ratio), _draw_fn(d, e)(np.uint32(setting.seed)), setting.head)

    def loss(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch), batch)

    def logits(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        feature_bd = batch["original_bd"]
        adapted_bd = jax.nn.relu(jax.nn.relu(feature_bd @ params["down"]) @ params["up"])
        return context.logits(self.ratio * adapted_bd + (1 - self.ratio) * feature_bd)
