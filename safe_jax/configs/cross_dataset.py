"""ImageNet with 16 shots, and what it tuned evaluated on the ten other data sets.

    safe-jax run --config cross_dataset --config.data_root=DATA

Each of the ten has its own classes and prompts; nothing is tuned or chosen there. The methods are
those that have an answer for other classes. Published for RN50, zero-shot: the column of the
benchmark, 58.75 in the mean of the ten; docs/protocols.md says more.
"""

from ml_collections import ConfigDict

from safe_jax.configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.shots = (16,)
    config.methods = ("zero_shot", "safe", "clip_adapter", "prolip")
    config.transfer = (
        "caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "oxford_flowers",
        "oxford_pets", "stanford_cars", "sun397", "ucf101",
    )  # fmt: skip
    return config
