"""The table of a CLIP ResNet, under OpenAI's names, and the shape that is read off a checkpoint."""

import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from safe_jax.checkpoints import table
from safe_jax.checkpoints.table import CONVOLUTION, DENSE, LAYER_NORM, LEAF, LINEAR, SAME, Layout
from safe_jax.clip.config import HEAD_WIDTH, Activation, CLIPConfig
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, listing

_HEADS = Layout(  # we group the rows by head
    lambda x: x.reshape(-1, HEAD_WIDTH, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1])
)
_PER_HEAD = (("weight", "kernel", _HEADS), ("bias", "bias", SAME))
_BATCH_NORM = (*LAYER_NORM, ("running_mean", "mean", SAME), ("running_var", "var", SAME))

TABLE = (
    ("visual.conv#", "visual/conv#", CONVOLUTION),
    ("visual.bn#", "visual/bn#", _BATCH_NORM),
    ("visual.layer#.#.conv#", "visual/layer#/#/conv#", CONVOLUTION),
    ("visual.layer#.#.bn#", "visual/layer#/#/bn#", _BATCH_NORM),
    ("visual.layer#.#.downsample.0", "visual/layer#/#/downsample_conv", CONVOLUTION),
    ("visual.layer#.#.downsample.1", "visual/layer#/#/downsample_bn", _BATCH_NORM),
    ("visual.attnpool.positional_embedding", "attnpool/positional_embedding", LEAF),
    ("visual.attnpool.q_proj", "attnpool/q_proj", DENSE),
    ("visual.attnpool.k_proj", "attnpool/k_proj", _PER_HEAD),
    ("visual.attnpool.v_proj", "attnpool/v_proj", _PER_HEAD),
    ("visual.attnpool.c_proj", "attnpool/c_proj", DENSE),
    ("token_embedding", "text/token_embedding", (("weight", "embedding", SAME),)),
    ("positional_embedding", "text/positional_embedding", LEAF),
    ("transformer.resblocks.#.ln_#", "text/resblocks/#/ln_#", LAYER_NORM),
    ("transformer.resblocks.#.attn.in_proj_weight", "text/resblocks/#/attn/in_proj/kernel",
     (("", "", LINEAR),)),
    ("transformer.resblocks.#.attn.in_proj_bias", "text/resblocks/#/attn/in_proj/bias", LEAF),
    ("transformer.resblocks.#.attn.out_proj", "text/resblocks/#/attn/out_proj", DENSE),
    ("transformer.resblocks.#.mlp.c_fc", "text/resblocks/#/mlp/c_fc", DENSE),
    ("transformer.resblocks.#.mlp.c_proj", "text/resblocks/#/mlp/c_proj", DENSE),
    ("ln_final", "text/ln_final", LAYER_NORM),
    ("text_projection", "text/text_projection", LEAF),
    ("logit_scale", "logit_scale", LEAF),
)  # fmt: skip

KIND = "CLIP ResNet"

# Integers of a checkpoint that the model does not use; they are kept to be given back.
BOOKKEEPING = re.compile(
    r"input_resolution|context_length|vocab_size|visual\..*\.num_batches_tracked"
)


def bookkeeping(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The integers of a state dict that the model does not use, by name.

    Raises `InputError` listing those that are no integers of 64 bits.
    """
    found = {name: x for name, x in tensors.items() if BOOKKEEPING.fullmatch(name)}
    if others := [name for name, x in found.items() if not _is_integer(x)]:
        lines = [f"{name}: {_shown(found[name])}" for name in others]
        raise InputError("whole numbers are expected of the checkpoint's" + listing(lines))
    return {name: int(x) for name, x in found.items()}


def _is_integer(x: np.ndarray) -> bool:
    """Whether it is a single value that 64 bits hold; a cast model has it as a float."""
    if x.ndim or (x.dtype.kind not in "iuf" and x.dtype.name != "bfloat16"):
        return False
    return abs(float(x)) < 2.0**63 and float(x).is_integer()


def _shown(x: np.ndarray) -> str:
    return f"shape {x.shape} {x.dtype}" if x.ndim else f"{x} ({x.dtype})"


def infer_config(
    tensors: Mapping[str, np.ndarray], activation: Activation = "quick_gelu"
) -> CLIPConfig:
    """Reads the shape of a CLIP ResNet off its state dict, as OpenAI's `build_model` does.

    Raises `InputError` for a ViT, and where the tensors that determine the shape are missing.
    """
    if others := [repr(name) for name in tensors if not isinstance(name, str)]:
        raise InputError("not a state dict: these keys are no names:" + listing(others))
    if "visual.proj" in tensors or "visual.class_embedding" in tensors:
        raise InputError(
            "this is a CLIP with a ViT image tower; SAFE tunes the attention pool of the ResNets: "
            "use RN50, RN101, RN50x4, RN50x16 or RN50x64"
        )
    size = functools.partial(table.size, tensors, KIND)
    count = functools.partial(table.count, tensors)
    cells = size(("visual.attnpool.positional_embedding", 0)) - 1
    side = math.isqrt(max(0, cells))
    if not side or side**2 != cells:
        raise InputError(
            f"visual.attnpool.positional_embedding has {cells + 1} rows; a square map of cells "
            "and the mean token would have 17, 50, 82, ..."
        )
    fields = {
        "embed_dim": size(("text_projection", 1), ("visual.attnpool.c_proj.weight", 0)),
        "image_size": 32 * side,
        "vision_layers": [count(rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)],
        "vision_width": size(("visual.layer1.0.conv1.weight", 0), ("visual.conv3.weight", 0)),
        "text_width": size(("ln_final.weight", 0), ("text_projection", 0)),
        "text_layers": count(r"transformer\.resblocks\.(\d+)\."),
        "context_length": size(("positional_embedding", 0)),
        "vocab_size": size(("token_embedding.weight", 0)),
        "activation": activation,
    }
    config = schema.check(CLIPConfig, fields, "the checkpoint's ")
    resolution = bookkeeping(tensors).get("input_resolution", config.image_size)
    if resolution != config.image_size:
        raise InputError(
            f"input_resolution is {resolution}, but the positional embedding is for "
            f"{config.image_size} pixels"
        )
    return config
