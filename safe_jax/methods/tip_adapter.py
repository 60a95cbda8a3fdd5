"""Tip-Adapter (arXiv 2207.09519): a cache on the original pool's features; nothing trains.

Axes: see `cache.py`; v views.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from safe_jax.methods.cache import (
    CacheHead,
    CacheKnobs,
    CacheSettings,
    Slots,
    cache_grid,
    cached_logits,
)
from safe_jax.methods.contract import Base, Batch, Fitted, Grid, Knobs, Params, Setting, Start
from safe_jax.methods.text_head import cosine_logits, cross_entropy, unit
from safe_jax.runtime.lazy import jax, jnp


@dataclasses.dataclass(frozen=True)
class TipAdapter(Base):
    """The parameters are `keys` `(k, s, d)`; the context is a `CacheHead`.

    `b` and `a` are the sharpness and the weight that keys are tuned with.
    """

    label = "Tip-Adapter"
    knobs: ClassVar[type[Knobs]] = CacheKnobs
    settings = CacheSettings
    tunes: ClassVar[bool] = False
    context: ClassVar[Any] = CacheHead

    b: float
    a: float

    @classmethod
    def start(cls, setting: Setting, settings: CacheSettings) -> Start:
        """One key for each support image: its views' mean, then made unit, as the authors do."""
        head, support = setting.head, setting.support
        slots = Slots.of(support.labels, len(head.text_kd))
        keys_nd = unit(support.arrays["original_bd"][support.row_nv].mean(1))
        keys_ksd = jnp.asarray(keys_nd[slots.image_ks])
        context = CacheHead(head, jnp.asarray(slots.filled_ks))
        return Start(cls(settings.b, settings.a), {"keys": keys_ksd}, context)

    @classmethod
    def grid(cls, settings: CacheSettings, earlier: Mapping[str, Fitted]) -> Grid:
        return cache_grid(settings)

    def loss(self, params: Params, context: CacheHead, batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch)(self.b)(self.a), batch)

    def logits(self, params: Params, context: CacheHead, batch: Batch) -> Callable:
        """A function from b to one from a to logits `(b, k)`."""
        feature_bd = unit(batch["original_bd"])
        logits_bk = cosine_logits(feature_bd, context.head.text_kd, context.head.scale)
        return cached_logits(feature_bd, logits_bk, params["keys"], context.filled_ks)
