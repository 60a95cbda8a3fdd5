"""A folder of your own images, a folder for each class, and nothing to write.

    python -m safe_jax.main --config configs/folder.py --config.image_dir=PATH

PATH holds class/image, or train/class/image and test/class/image (val/class/image too, if you
like). The folders' names are the class names, with _ as a space; the prompt is below.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data_root = "."
    config.templates = ("a photo of a {}.",)
    return config
