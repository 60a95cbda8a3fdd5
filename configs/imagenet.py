"""ImageNet in CoOp's layout (images/{train,val}/wnid, classnames.txt), with RN50.

    python -m safe_jax.main --config configs/imagenet.py --config.data_root=DATA

Validation images are drawn from train: 50 a class. Published for RN50 (Tip-Adapter's protocol,
which tunes on test): zero-shot 60.32, Tip-Adapter-F 65.51 with 16 shots.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "imagenet"
    config.weights = "RN50"
    config.batch_size = 256
    return config
