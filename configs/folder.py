"""`--config configs/folder.py`; what it holds is in safe_jax/configs/folder.py."""

from safe_jax.configs.folder import get_config

__all__ = ["get_config"]
