"""SigLIP as weights: what a checkpoint calls its tensors, and which values it may have."""

from collections.abc import Mapping

import numpy as np

from safe_jax.checkpoints.state_dict import Family, check_scale
from safe_jax.runtime.errors import InputError
from safe_jax.siglip import checkpoint, table, tokenizer
from safe_jax.siglip.config import SigLIPConfig
from safe_jax.siglip.model import ImageTower, SigLIP

_LARGEST_SCALE = 6.0  # nothing in training bounds it, as it is in CLIP


def _check(leaves: Mapping[str, np.ndarray], config: SigLIPConfig) -> None:
    check_scale(leaves, _LARGEST_SCALE)
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
