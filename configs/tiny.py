"""Coloured patches and a CLIP of random weights, both made in a second by `tests/tiny.py`.

    python -m tests.tiny demo
    python -m safe_jax.main --config configs/tiny.py

It shows that everything works, and no more: zero-shot is chance (25), tuning learns the colours.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "patches"
    config.data_root = "demo"
    config.image_dir = "patches/images"
    config.split_file = "patches/split.json"
    config.templates = ("a photo of a {} thing.",)
    config.weights = "demo/clip_tiny"
    config.cache_dir = "demo/cache"
    config.learning_rate = 1e-3
    config.shots = (1, 2, 4, 8)
    return config
