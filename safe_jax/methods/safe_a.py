"""SAFE-A: SAFE with Tip-Adapter's cache on its own features.

    logits = s f W^T + a exp(-b (1 - f K^T)) V

f is SAFE's feature at alpha, K the support images' (the mean over views of each pool, blended at
alpha, made unit). The paper's abstract names no cache; this form is ours. The keys are computed
for every alpha.

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
    Steps,
    cache_grid,
    cached_logits,
)
from safe_jax.methods.contract import Base, Batch, Fitted, Grid, Knobs, Params, Setting, Start
from safe_jax.methods.safe import SafeSettings, alpha_grid, blended_features
from safe_jax.methods.text_head import cross_entropy, unit
from safe_jax.runtime.lazy import jax, jnp
from safe_jax.runtime.schema import knob


class SafeAKnobs(CacheKnobs):
    b_steps: Steps = knob(20, "values of b in the grid")  # alpha is a third axis


class SafeASettings(SafeSettings, SafeAKnobs, CacheSettings):
    """SAFE's knobs and the cache's."""


@dataclasses.dataclass(frozen=True)
class SafeA(Base):
    """The parameters are `tuned` and `original`, the pools' features of the support images.

    Both are `(k, s, d)`, means over views; the context is a `CacheHead`.
    """

    label = "SAFE-A"
    knobs: ClassVar[type[Knobs]] = SafeAKnobs
    settings = SafeASettings
    takes = ("tuned_bd", "original_bd")
    after: ClassVar[tuple[str, ...]] = ("safe",)
    tunes: ClassVar[bool] = False
    context: ClassVar[Any] = CacheHead

    blend: str
    b: float
    a: float

    @classmethod
    def start(cls, setting: Setting, settings: SafeASettings) -> Start:
        head, support = setting.head, setting.support
        slots = Slots.of(support.labels, len(head.text_kd))
        params = {
            pool: jnp.asarray(features_nvd.mean(1)[slots.image_ks])
            for pool in ("tuned", "original")
            for features_nvd in [support.arrays[f"{pool}_bd"][support.row_nv]]
        }
        context = CacheHead(head, jnp.asarray(slots.filled_ks))
        return Start(cls(settings.blend, settings.b, settings.a), params, context)

    @classmethod
    def grid(cls, settings: SafeASettings, earlier: Mapping[str, Fitted]) -> Grid:
        return alpha_grid(settings) | cache_grid(settings)

    def keys(self, params: Params, alpha: "jax.Array | float") -> "jax.Array":
        """The keys at `alpha`, `(k, s, d)`."""
        return unit(blended_features(params["tuned"], params["original"], alpha, self.blend))

    def loss(self, params: Params, context: CacheHead, batch: Batch) -> "jax.Array":
        at_alpha = self.logits(params, context, batch)
        return cross_entropy(at_alpha(context.alpha)(self.b)(self.a), batch)

    def logits(self, params: Params, context: CacheHead, batch: Batch) -> Callable:
        """A function from alpha to one from b to one from a to logits `(b, k)`."""

        def at_alpha(alpha):
            tuned_bd, original_bd = batch["tuned_bd"], batch["original_bd"]
            feature_bd = blended_features(tuned_bd, original_bd, alpha, self.blend)
            logits_bk = context.head.scale * feature_bd @ context.head.text_kd.T
            return cached_logits(
                unit(feature_bd), logits_bk, self.keys(params, alpha), context.filled_ks
            )

        return at_alpha
