"""Caltech-101 in CoOp's layout.

    python -m safe_jax.main --config configs/caltech101.py --config.weights=RN50

Published for RN50 (Tip-Adapter's protocol): zero-shot 85.92, Tip-Adapter-F 92.86 with 16 shots.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "caltech101"
    return config
