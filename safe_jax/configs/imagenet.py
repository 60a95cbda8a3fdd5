"""ImageNet in CoOp's layout (imagenet/images/{train,val}/wnid), with RN50.

    safe-jax run --config imagenet --config.data_root=DATA

The same model on ImageNet's variants: --config.transfer=imagenet_v2,imagenet_sketch and so on.
Validation images are drawn from train: 50 a class. Published for RN50: zero-shot 60.32, and 65.51
for Tip-Adapter-F with 16 shots (one seed, its epoch and knobs picked on test).
"""

from ml_collections import ConfigDict

from safe_jax.configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.dataset = "imagenet"
    config.batch_size = 256  # 1000 classes in a batch of 64 would be mostly absent
    return config
