"""`--config configs/cross_dataset.py`; what it holds is in safe_jax/configs/cross_dataset.py."""

from safe_jax.configs.cross_dataset import get_config

__all__ = ["get_config"]
