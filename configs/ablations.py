"""`--config configs/ablations.py`; what it holds is in safe_jax/configs/ablations.py."""

from safe_jax.configs.ablations import CHANGES, get_config

__all__ = ["CHANGES", "get_config"]
