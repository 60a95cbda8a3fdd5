"""Every method by its name in configs and rows, in the order of tables. Loads no JAX.

A new method is a new module, imported here and named in `METHODS`.
"""

from safe_jax.methods.clip_adapter import ClipAdapter
from safe_jax.methods.contract import Method
from safe_jax.methods.linear_probe import LinearProbe
from safe_jax.methods.partial import Partial
from safe_jax.methods.prolip import ProLIP
from safe_jax.methods.safe import Safe
from safe_jax.methods.safe_a import SafeA
from safe_jax.methods.safe_a_f import SafeAF
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.methods.tip_adapter_f import TipAdapterF
from safe_jax.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Method]] = {
    "zero_shot": ZeroShot,
    "safe": Safe,
    "safe_a": SafeA,
    "safe_a_f": SafeAF,
    "tip_adapter": TipAdapter,
    "tip_adapter_f": TipAdapterF,
    "clip_adapter": ClipAdapter,
    "prolip": ProLIP,
    "linear_probe": LinearProbe,
    "partial": Partial,
}
