"""The table between the names of a torch checkpoint and the paths of our leaves.

Modules keep the checkpoint's names, so most rows rename a leaf and transpose a kernel. The table
is read in both directions.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from safe_jax.clip.config import HEAD_WIDTH, Activation, CLIPConfig
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, listing


class Layout(NamedTuple):
    """How a tensor's axes are arranged: functions from torch's arrangement to ours and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """Where a tensor of a checkpoint goes: the path of our leaf, and the layout."""

    path: str
    layout: Layout


_SAME = Layout(lambda x: x, lambda x: x)
_LINEAR = Layout(np.transpose, np.transpose)  # torch has (out, in)
_CONV = Layout(  # torch has (out, in, h, w)
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
_HEADS = Layout(  # we group the rows by head
    lambda x: x.reshape(-1, HEAD_WIDTH, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1])
)

# The kinds of modules: torch's leaf, our leaf, layout.
_CONVOLUTION = (("weight", "kernel", _CONV),)
_DENSE = (("weight", "kernel", _LINEAR), ("bias", "bias", _SAME))
_PER_HEAD = (("weight", "kernel", _HEADS), ("bias", "bias", _SAME))
_LAYER_NORM = (("weight", "scale", _SAME), ("bias", "bias", _SAME))
_BATCH_NORM = (*_LAYER_NORM, ("running_mean", "mean", _SAME), ("running_var", "var", _SAME))
_LEAF = (("", "", _SAME),)

# Torch's name, our path, kind; # stands for a number, the same on both sides.
TABLE = (
    ("visual.conv#", "visual/conv#", _CONVOLUTION),
    ("visual.bn#", "visual/bn#", _BATCH_NORM),
    ("visual.layer#.#.conv#", "visual/layer#/#/conv#", _CONVOLUTION),
    ("visual.layer#.#.bn#", "visual/layer#/#/bn#", _BATCH_NORM),
    ("visual.layer#.#.downsample.0", "visual/layer#/#/downsample_conv", _CONVOLUTION),
    ("visual.layer#.#.downsample.1", "visual/layer#/#/downsample_bn", _BATCH_NORM),
    ("visual.attnpool.positional_embedding", "attnpool/positional_embedding", _LEAF),
    ("visual.attnpool.q_proj", "attnpool/q_proj", _DENSE),
    ("visual.attnpool.k_proj", "attnpool/k_proj", _PER_HEAD),
    ("visual.attnpool.v_proj", "attnpool/v_proj", _PER_HEAD),
    ("visual.attnpool.c_proj", "attnpool/c_proj", _DENSE),
    ("token_embedding", "text/token_embedding", (("weight", "embedding", _SAME),)),
    ("positional_embedding", "text/positional_embedding", _LEAF),
    ("transformer.resblocks.#.ln_#", "text/resblocks/#/ln_#", _LAYER_NORM),
    ("transformer.resblocks.#.attn.in_proj_weight", "text/resblocks/#/attn/in_proj/kernel",
     (("", "", _LINEAR),)),
    ("transformer.resblocks.#.attn.in_proj_bias", "text/resblocks/#/attn/in_proj/bias", _LEAF),
    ("transformer.resblocks.#.attn.out_proj", "text/resblocks/#/attn/out_proj", _DENSE),
    ("transformer.resblocks.#.mlp.c_fc", "text/resblocks/#/mlp/c_fc", _DENSE),
    ("transformer.resblocks.#.mlp.c_proj", "text/resblocks/#/mlp/c_proj", _DENSE),
    ("ln_final", "text/ln_final", _LAYER_NORM),
    ("text_projection", "text/text_projection", _LEAF),
    ("logit_scale", "logit_scale", _LEAF),
)  # fmt: skip

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


def places(leaf_paths: Iterable[str]) -> dict[str, Place]:
    """The tensor of a checkpoint, by torch's name, for each of our leaves."""
    leaf_rows = list(_leaf_rows())
    found = {}
    for path in leaf_paths:
        for pattern, torch_template, layout in leaf_rows:
            if match := pattern.fullmatch(path):
                numbers = iter(match.groups())
                torch_name = re.sub("#", lambda _, n=numbers: next(n), torch_template)
                found[torch_name] = Place(path, layout)
                break
        else:
            raise AssertionError(f"the table has no row for {path}")
    return found


def _leaf_rows() -> Iterator[tuple[re.Pattern, str, Layout]]:
    """The table by leaf: the pattern of our path, the template of torch's name, the layout."""
    for torch_module, module_path, kind in TABLE:
        for torch_leaf, leaf, layout in kind:
            path = "/".join(filter(None, (module_path, leaf)))
            torch_template = ".".join(filter(None, (torch_module, torch_leaf)))
            yield re.compile(path.replace("#", r"(\d+)")), torch_template, layout


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
    cells = _size(tensors, ("visual.attnpool.positional_embedding", 0)) - 1
    side = math.isqrt(max(0, cells))
    if not side or side**2 != cells:
        raise InputError(
            f"visual.attnpool.positional_embedding has {cells + 1} rows; a square map of cells "
            "and the mean token would have 17, 50, 82, ..."
        )
    fields = {
        "embed_dim": _size(tensors, ("text_projection", 1), ("visual.attnpool.c_proj.weight", 0)),
        "image_size": 32 * side,
        "vision_layers": [_count(tensors, rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)],
        "vision_width": _size(
            tensors, ("visual.layer1.0.conv1.weight", 0), ("visual.conv3.weight", 0)
        ),
        "text_width": _size(tensors, ("ln_final.weight", 0), ("text_projection", 0)),
        "text_layers": _count(tensors, r"transformer\.resblocks\.(\d+)\."),
        "context_length": _size(tensors, ("positional_embedding", 0)),
        "vocab_size": _size(tensors, ("token_embedding.weight", 0)),
        "activation": activation,
    }
    return schema.check(CLIPConfig, fields, "the checkpoint's ")


def _size(tensors: Mapping[str, np.ndarray], *alternatives: tuple[str, int]) -> int:
    """The length of an axis of a tensor: of the first alternative `(name, axis)` that is there."""
    for name, axis in alternatives:
        if name in tensors and tensors[name].ndim > axis:
            return tensors[name].shape[axis]
    names = " nor ".join(name for name, _ in alternatives)
    raise InputError(f"not a CLIP ResNet: it has neither {names}, which tell its shape")


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many blocks match; at least one, which is then listed as missing.

    Blocks with higher numbers than there are blocks are listed as unexpected.
    """
    numbers = {match[1] for match in map(re.compile(pattern).match, tensors) if match}
    return max(1, len(numbers))
