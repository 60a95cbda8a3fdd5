"""`--config configs/digits.py`; what it holds is in safe_jax/configs/digits.py."""

from safe_jax.configs.digits import get_config

__all__ = ["get_config"]
