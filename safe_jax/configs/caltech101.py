"""Caltech-101 in CoOp's layout.

    safe-jax run --config caltech101 --config.weights=RN50

Published for RN50: zero-shot 85.92, and 92.86 for Tip-Adapter-F with 16 shots (one seed, all
validation images, its epoch picked on test).
"""

from ml_collections import ConfigDict

from safe_jax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.dataset = "caltech101"
    return config
