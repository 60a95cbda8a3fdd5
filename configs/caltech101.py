"""Caltech-101 in CoOp's layout.

    python -m safe_jax.main --config configs/caltech101.py --config.weights=RN50

Published for RN50: zero-shot 85.92, and 92.86 for Tip-Adapter-F with 16 shots (one seed, all
validation images, its epoch picked on test).
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "caltech101"
    return config
