"""SAFE: semantic-aware fine-tuning of CLIP's attention pool, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_jax.estimator.estimator import SafeClassifier

__version__ = "0.1.0"
__all__ = ["SafeClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "SafeClassifier":  # imported when it is asked for: JAX takes seconds
        from safe_jax.estimator.estimator import SafeClassifier

        return SafeClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
