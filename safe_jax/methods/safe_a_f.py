"""SAFE-A with its keys tuned, as Tip-Adapter-F tunes them, from the keys at SAFE-A's alpha on."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from safe_jax.methods.cache import cache_grid
from safe_jax.methods.contract import Fitted, Grid, Knobs, Params, Setting, Start
from safe_jax.methods.safe_a import SafeA, SafeASettings
from safe_jax.runtime.lazy import jax, jnp


@dataclasses.dataclass(frozen=True)
class SafeAF(SafeA):
    """The only parameter is `keys` `(k, s, d)`; the context's alpha is the one SAFE-A chose."""

    label = "SAFE-A (keys tuned)"
    knobs = Knobs
    shares = ("safe_a", "tip_adapter_f")
    after = ("safe", "safe_a")
    tunes = True

    @classmethod
    def start(cls, setting: Setting, settings: SafeASettings) -> Start:
        free = super().start(setting, settings)
        alpha = float(setting.earlier["safe_a"].point["alpha"])
        method = cls(settings.blend, settings.b, settings.a)
        pools = jax.tree.map(np.asarray, free.params)  # by NumPy: no program for a single use
        keys_ksd = jnp.asarray(SafeA.keys(method, pools, alpha))
        context = free.context._replace(alpha=jnp.float32(alpha))
        return Start(method, {"keys": keys_ksd}, context)

    @classmethod
    def grid(cls, settings: SafeASettings, earlier: Mapping[str, Fitted]) -> Grid:
        alpha = earlier["safe_a"].point["alpha"]
        return {"alpha": np.array([alpha])} | cache_grid(settings)

    def keys(self, params: Params, alpha: "jax.Array | float") -> "jax.Array":
        return params["keys"]
