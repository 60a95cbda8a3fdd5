"""ProLIP (arXiv 2410.05270): tunes the pool's last projection alone, held near its start.

    loss = cross entropy of s unit(z A + bias) W^T  +  lambda ||A - A0||^2

A is the weight of `c_proj`, with which a CLIP's pool ends; of a SigLIP's it is the MLP's second
layer, whose shortcut is added. The bias stays. The input of the projection, z, never changes, so it
is computed once, as the authors do. lambda is 1 / shots by their default.

Axes: b images, c channels that are projected, u of these and of a shortcut, k classes, d channels
of the joint space.
"""

import dataclasses
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from safe_jax.methods.contract import (
    Base,
    Batch,
    BatchSizeOrAll,
    Decay,
    Epochs,
    Epsilon,
    Params,
    Rate,
    Setting,
    Start,
    TunedKnobs,
    WarmupEpochs,
)
from safe_jax.methods.text_head import TextHead, cross_entropy
from safe_jax.runtime.lazy import jax, jnp, nnx
from safe_jax.runtime.schema import Bounds, Pattern, knob


class ProLIPKnobs(TunedKnobs):
    trainable: Pattern = knob("c_proj/kernel", "parameters whose whole path matches it are trained")
    regularizer: Annotated[float, AfterValidator(Bounds(ge=0, le=10**6))] = knob(
        1.0, "lambda is this / shots"
    )
    learning_rate: Rate = knob(1e-5, "the peak, after the warm-up")
    eps: Epsilon = knob(1e-4, "Adam's epsilon")
    weight_decay: Decay = knob(0.0, "decoupled from the gradient, as in AdamW")
    epochs: Epochs = knob(300, "passes over the training images")
    warmup_epochs: WarmupEpochs = knob(0.0, "the rate climbs linearly for so long")
    batch_size: BatchSizeOrAll = knob(0, "images of a step; 0: all images of the subset")


class Held(NamedTuple):
    """The text head, the projection's start A0 as `(c, d)`, and lambda."""

    head: TextHead
    start_cd: "jax.Array"
    weight: "jax.Array"


@dataclasses.dataclass(frozen=True)
class ProLIP(Base):
    """The parameters are `c_proj`, at first the original pool's; the context is `Held`."""

    label = "ProLIP"
    knobs = ProLIPKnobs
    settings = ProLIPKnobs
    takes = ("unprojected_bu",)
    context = Held
    open_classes = True

    @classmethod
    def start(cls, setting: Setting, settings: ProLIPKnobs) -> Start:
        c_proj = nnx.to_pure_dict(nnx.state(setting.model.attnpool.c_proj))
        weight = jnp.float32(settings.regularizer / setting.shots)
        context = Held(setting.head, c_proj["kernel"], weight)
        return Start(cls(), {"c_proj": c_proj}, context)

    def loss(self, params: Params, context: Held, batch: Batch) -> "jax.Array":
        """`(b,)`; each image has the whole distance, so their mean has it once."""
        distance = jnp.square(params["c_proj"]["kernel"] - context.start_cd).sum()
        logits_bk = self.logits(params, context, batch)
        return cross_entropy(logits_bk, batch) + context.weight * distance

    def logits(self, params: Params, context: Held, batch: Batch) -> "jax.Array":
        return context.head.logits(project(batch["unprojected_bu"], params["c_proj"]))


def project(unprojected_bu: "jax.Array", c_proj: Params) -> "jax.Array":
    """A pool's feature `(b, d)` of what its `unprojected` gives.

    The channels beyond those that `c_proj` takes are a shortcut.
    """
    kernel_cd = c_proj["kernel"]
    feature_bd = unprojected_bu[:, : kernel_cd.shape[0]] @ kernel_cd + c_proj["bias"]
    shortcut_bd = unprojected_bu[:, kernel_cd.shape[0] :]
    return feature_bd + shortcut_bd if shortcut_bd.shape[1] else feature_bd
