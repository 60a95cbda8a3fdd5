"""`--config configs/caltech101.py`; what it holds is in safe_jax/configs/caltech101.py."""

from safe_jax.configs.caltech101 import get_config

__all__ = ["get_config"]
