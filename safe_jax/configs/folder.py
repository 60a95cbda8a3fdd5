"""A folder of your own images, a folder for each class, and nothing to write.

    safe-jax run --config folder --config.image_dir=PATH

PATH holds class/image, or train/class/image and test/class/image (val/class/image too, if you
like). The folders' names are the class names, with _ as a space, unless classnames.txt beside them
names them; the prompt is below.
"""

from ml_collections import ConfigDict

from safe_jax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data_root = "."
    config.templates = ("a photo of a {}.",)
    config.unreadable = "skip"  # a run need not die of one bad picture
    return config
