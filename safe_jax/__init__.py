"""SAFE: semantic-aware fine-tuning of CLIP's attention pool, in JAX."""

__version__ = "0.1.0"
