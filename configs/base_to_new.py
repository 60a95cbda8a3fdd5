"""`--config configs/base_to_new.py`; what it holds is in safe_jax/configs/base_to_new.py."""

from safe_jax.configs.base_to_new import get_config

__all__ = ["get_config"]
