"""`--config configs/default.py`; what it holds is in safe_jax/configs/default.py."""

from safe_jax.configs.default import get_config

__all__ = ["get_config"]
