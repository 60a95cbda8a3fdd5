"""`--config configs/imagenet.py`; what it holds is in safe_jax/configs/imagenet.py."""

from safe_jax.configs.imagenet import get_config

__all__ = ["get_config"]
