"""Handwritten digits among clutter, and the small CLIP of the package: nothing is downloaded.

    safe-jax run --config digits

Needs scikit-learn, which has the scans: pip install -e '.[digits]'. The pictures are drawn on
first use.
"""

from ml_collections import ConfigDict

from safe_jax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.dataset = "digits"
    config.data_root = config.get_ref("cache_dir")  # wherever that is put
    config.weights = "small"
    config.methods = (
        "zero_shot", "safe", "safe_a", "safe_a_f", "tip_adapter", "tip_adapter_f", "clip_adapter",
        "prolip", "linear_probe", "partial",
    )  # fmt: skip
    config.learning_rate = 1e-3  # of SAFE, see docs/defaults.md; the others' are as in default.py
    return config
