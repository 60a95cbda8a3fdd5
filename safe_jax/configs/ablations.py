"""What each part of SAFE contributes: the default config with one thing changed, by its name.

    safe-jax run --config ablations:q --config.dataset=NAME

Evaluated on the validation images that chose no alpha. docs/ablations.md has the numbers.
"""

from ml_collections import ConfigDict

from safe_jax.configs import default
from safe_jax.runtime.errors import InputError

CHANGES = {
    "default": {},
    # What trains.
    "position": {"trainable": "attnpool/positional_embedding"},
    "q": {"trainable": "attnpool/q_proj/.*"},
    "k": {"trainable": "attnpool/k_proj/.*"},
    "v": {"trainable": "attnpool/v_proj/.*"},
    "c": {"trainable": "attnpool/c_proj/.*"},
    "qk": {"trainable": "attnpool/[qk]_proj/.*"},
    "vc": {"trainable": "attnpool/[vc]_proj/.*"},
    # Where it blends.
    "unit": {"blend": "unit"},
    "logit": {"blend": "logit"},
    # Alpha.
    "alpha_half": {"selection": "fixed", "alpha": 0.5},
    "alpha_1": {"selection": "fixed", "alpha": 1.0},
    "through_blend": {"train_alpha": 0.5},
    # Views.
    "views_2": {"views": 2},
    "views_5": {"views": 5},
    "views_10": {"views": 10},
    "online": {"features": "online"},
}


def get_config(name: str = "default") -> ConfigDict:
    if name not in CHANGES:
        raise InputError(f"ablations:{name}: one of {', '.join(CHANGES)} is expected")
    config = default.get_config()
    config.methods = ("safe",)
    config.shots = (1, 4, 16)
    config.eval_split = "val"
    config.update(CHANGES[name])
    return config
