"""`--config configs/benchmark.py`; what it holds is in safe_jax/configs/benchmark.py."""

from safe_jax.configs.benchmark import get_config

__all__ = ["get_config"]
