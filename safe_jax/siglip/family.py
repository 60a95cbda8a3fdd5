"""SigLIP as weights: what a checkpoint calls its tensors, and which values it may have."""

from collections.abc import Mapping

import numpy as np

from safe_jax.checkpoints.state_dict import Family
from safe_jax.runtime.errors import InputError
from safe_jax.siglip import checkpoint, table, tokenizer
from safe_jax.siglip.config import SigLIPConfig
from safe_jax.siglip.model import ImageTower, SigLIP

_LARGEST_SCALE = 6.0  # releases have 4.6 to 4.8


def _check(leaves: Mapping[str, np.ndarray], config: SigLIPConfig) -> None:
    scale = leaves["logit_scale"].item()
    if not abs(scale) <= _LARGEST_SCALE:
        raise InputError(
            f"logit_scale is {scale:g}, which would multiply cosines by exp({scale:g}): its "
            "logarithm is expected"
        )
    tokenizer.parse(leaves["tokenizer_json"].tobytes())
    if config.pad_token >= config.vocab_size:
        raise InputError(
            f"tokenizer.json pads with token {config.pad_token}, but the checkpoint has embeddings "
            f"of {config.vocab_size}: it belongs to another model"
        )


FAMILY = Family(
    name="siglip",
    kind=table.KIND,
    config=SigLIPConfig,
    model=SigLIP,
    image_tower=ImageTower,
    rows=table.TABLE,
    infer_config=checkpoint.infer_config,
    bookkeeping=lambda tensors: {},
    check=_check,
    positions=("visual/position_embedding", 0),
    cell=lambda config: config.patch_size,
)
