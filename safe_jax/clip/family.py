"""CLIP ResNets as weights: what a checkpoint calls their tensors, and which values it may have."""

from collections.abc import Mapping

import numpy as np

from safe_jax.checkpoints.state_dict import Family, check_scale
from safe_jax.clip import table
from safe_jax.clip.config import CLIPConfig
from safe_jax.clip.model import CLIP, ImageTower
from safe_jax.runtime.errors import InputError, listing

_LARGEST_SCALE = 5.0  # a bit more than CLIP's ln 100, for weights in 16 bits


def _check(leaves: Mapping[str, np.ndarray], config: CLIPConfig) -> None:
    check_scale(leaves, _LARGEST_SCALE)
    negative = [path for path, x in leaves.items() if path.endswith("/var") and (x < 0).any()]
    if negative:
        raise InputError("the checkpoint has negative variances:" + listing(negative))


FAMILY = Family(
    name="clip",
    kind=table.KIND,
    config=CLIPConfig,
    model=CLIP,
    image_tower=ImageTower,
    rows=table.TABLE,
    infer_config=table.infer_config,
    bookkeeping=table.bookkeeping,
    check=_check,
    positions=("attnpool/positional_embedding", 1),  # the mean token's comes first
    cell=lambda config: 32,
)
