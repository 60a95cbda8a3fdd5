"""Weights: one table between torch's names and ours, read both ways, and their Orbax directory.

Modules keep the checkpoint's names, so most rows rename a leaf and transpose a kernel. Reading is
strict: what is missing, left over or misshapen is listed whole, and nothing is written.
"""

import dataclasses
import hashlib
import json
import math
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from orbax.checkpoint import v1 as ocp

from safe_jax.clip.attention_pool import HEAD_WIDTH
from safe_jax.clip.model import CLIP, CLIPConfig
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError, listing

# Torch's layout to ours, and back.
_SAME = (lambda x: x, lambda x: x)
_LINEAR = (np.transpose, np.transpose)  # (out, in)
_CONV = (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # (out, in, h, w)
_HEADS = (  # rows grouped by head
    lambda x: x.reshape(-1, HEAD_WIDTH, x.shape[-1]),
    lambda x: x.reshape(-1, x.shape[-1]),
)

# kind of module -> rows of (torch's leaf, our leaf, layout)
_CONVOLUTION = (("weight", "kernel", _CONV),)
_DENSE = (("weight", "kernel", _LINEAR), ("bias", "bias", _SAME))
_PER_HEAD = (("weight", "kernel", _HEADS), ("bias", "bias", _SAME))
_LAYER_NORM = (("weight", "scale", _SAME), ("bias", "bias", _SAME))
_BATCH_NORM = (*_LAYER_NORM, ("running_mean", "mean", _SAME), ("running_var", "var", _SAME))
_LEAF = (("", "", _SAME),)

# (torch's name, our path, kind); # stands for a number, the same on both sides
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

# Integers that come with a checkpoint and that we have no use for, but give back.
_BOOKKEEPING = re.compile(
    r"input_resolution|context_length|vocab_size|visual\..*\.num_batches_tracked"
)


_DTYPES = ("float32", "float16", "bfloat16")


def _rows():
    """The table with its kinds spelled out: our path's pattern, torch's template, layout."""
    for torch_name, path, kind in TABLE:
        for torch_leaf, leaf, layout in kind:
            pattern = "/".join(filter(None, (path, leaf)))
            template = ".".join(filter(None, (torch_name, torch_leaf)))
            yield re.compile(pattern.replace("#", r"(\d+)")), template, layout


def _correspondence(paths):
    """Torch's name -> (our path, layout), for every one of our paths."""
    rows = list(_rows())
    names = {}
    for path in paths:
        for pattern, template, layout in rows:
            if match := pattern.fullmatch(path):
                numbers = iter(match.groups())
                names[re.sub("#", lambda _, n=numbers: next(n), template)] = (path, layout)
                break
        else:
            raise AssertionError(f"no row of the table is for {path}")
    return names


def abstract_model(config: CLIPConfig, dtype=jnp.float32) -> CLIP:
    """The model with shapes for arrays: nothing is allocated."""
    return nnx.eval_shape(lambda: CLIP(config, dtype=dtype, rngs=_OneKey()))


class _OneKey:
    """Stands in for `nnx.Rngs`, whose counter makes tracing quadratic in the number of layers."""

    def params(self):
        return jax.random.key(0)


def flatten(model: nnx.Module) -> dict[str, jax.Array]:
    """The model's leaves by path, such as `attnpool/c_proj/kernel`."""
    tree = nnx.to_pure_dict(nnx.state(model))
    return {"/".join(map(str, path)): x for path, x in traverse_util.flatten_dict(tree).items()}


def unflatten(leaves: dict) -> dict:
    """The inverse of `flatten`, as a tree for `nnx.merge`."""
    return traverse_util.unflatten_dict(
        {tuple(int(k) if k.isdigit() else k for k in path.split("/")): x
         for path, x in leaves.items()}
    )  # fmt: skip


def infer_config(tensors: dict[str, np.ndarray], activation: str = "quick_gelu") -> CLIPConfig:
    """Reads the shape of a CLIP ResNet off its state dict, as OpenAI's `build_model` does.

    Raises `InputError` for a ViT, and where too little is there to tell the shape.
    """
    if "visual.proj" in tensors or "visual.class_embedding" in tensors:
        raise InputError(
            "this is a CLIP with a ViT image tower; SAFE tunes the attention pool of the ResNets: "
            "use RN50, RN101, RN50x4, RN50x16 or RN50x64"
        )

    def size(*places):
        for name, axis in places:
            if name in tensors and tensors[name].ndim > axis:
                return tensors[name].shape[axis]
        names = " nor ".join(name for name, _ in places)
        raise InputError(f"not a CLIP ResNet: it has neither {names}, which tell its shape")

    def count(pattern):
        found = [int(m[1]) for m in map(re.compile(pattern).match, tensors) if m]
        return max(found, default=-1) + 1

    cells = size(("visual.attnpool.positional_embedding", 0)) - 1
    side = math.isqrt(cells)
    if side**2 != cells:
        raise InputError(
            f"visual.attnpool.positional_embedding has {cells + 1} rows; a square map of cells "
            "and the mean token would have 17, 50, 82, ..."
        )
    return CLIPConfig(
        embed_dim=size(("text_projection", 1), ("visual.attnpool.c_proj.weight", 0)),
        image_size=32 * side,
        vision_layers=tuple(count(rf"visual\.layer{n}\.(\d+)\.") for n in (1, 2, 3, 4)),
        vision_width=size(("visual.layer1.0.conv1.weight", 0), ("visual.conv3.weight", 0)),
        text_width=size(("ln_final.weight", 0), ("text_projection", 0)),
        text_layers=count(r"transformer\.resblocks\.(\d+)\."),
        context_length=size(("positional_embedding", 0)),
        vocab_size=size(("token_embedding.weight", 0)),
        activation=activation,
    )


def from_torch(tensors: dict[str, np.ndarray], activation: str = "quick_gelu"):
    """A state dict to `(config, leaves, metadata)`; `to_torch` is the inverse, bit for bit.

    `leaves` are float32 by path. `metadata` is what `to_torch` needs beside them: each tensor's
    dtype, and the integers that a checkpoint carries.

    Raises `InputError` listing every tensor that is missing, unexpected or misshapen.
    """
    integers = {n: int(x) for n, x in tensors.items() if _BOOKKEEPING.fullmatch(n)}
    tensors = {n: x for n, x in tensors.items() if n not in integers}
    config = infer_config(tensors, activation)
    expected = flatten(abstract_model(config))
    names = _correspondence(expected)

    offences = [f"- {name}: missing" for name in names if name not in tensors]
    offences += [
        f"+ {name} {x.shape}: not a part of a CLIP ResNet"
        for name, x in tensors.items()
        if name not in names
    ]
    for name, (path, (_, back)) in names.items():
        want = back(np.broadcast_to(np.float32(0), expected[path].shape)).shape
        if name in tensors and tensors[name].shape != want:
            offences.append(f"! {name}: shape {tensors[name].shape}, expected {want}")
    if integers.get("input_resolution", config.image_size) != config.image_size:
        offences.append(
            f"! input_resolution: {integers['input_resolution']}, but the positional embedding is "
            f"for {config.image_size} pixels"
        )
    if offences:
        raise InputError(
            f"the checkpoint does not fit a CLIP ResNet {dataclasses.astuple(config)}; "
            f"{len(offences)} of {len(names)} tensors:" + listing(offences)
        )

    leaves = {
        path: np.asarray(to_ours(tensors[name].astype(np.float32)), order="C")
        for name, (path, (to_ours, _)) in names.items()
    }
    unusable = [name for name, (path, _) in names.items() if not np.isfinite(leaves[path]).all()]
    if unusable:
        raise InputError("the checkpoint has values that are not finite:" + listing(unusable))
    dtypes = {name: str(tensors[name].dtype) for name in names}
    if doubles := [f"{name}: {d}" for name, d in dtypes.items() if d not in _DTYPES]:
        raise InputError("float32 would not hold these bit for bit; cast them:" + listing(doubles))
    return config, leaves, {"dtypes": dtypes, "integers": integers}


def to_torch(leaves: dict[str, np.ndarray], metadata: dict | None = None) -> dict[str, np.ndarray]:
    """Leaves by path to a state dict in torch's names and layouts.

    With the `metadata` of `from_torch`, in the dtypes and with the integers that it came with.
    """
    metadata = metadata or {}
    tensors = {
        name: np.asarray(to_theirs(np.asarray(leaves[path])), order="C")
        for name, (path, (_, to_theirs)) in _correspondence(leaves).items()
    }
    dtypes = metadata.get("dtypes", {})
    tensors = {name: x.astype(np.dtype(dtypes.get(name, x.dtype))) for name, x in tensors.items()}
    return tensors | {n: np.asarray(x, np.int64) for n, x in metadata.get("integers", {}).items()}


def digest(leaves: dict[str, np.ndarray], config: CLIPConfig) -> str:
    """What tells one set of weights from another: sha256 over names, shapes and values."""
    sha = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for path in sorted(leaves):
        x = np.asarray(leaves[path], order="C")
        sha.update(f"{path} {x.shape} {x.dtype}".encode())
        sha.update(x.data)
    return sha.hexdigest()


def save(
    directory, config: CLIPConfig, leaves: dict[str, np.ndarray], metadata: dict | None = None
) -> None:
    """Writes an Orbax directory, whole or not at all.

    Raises `InputError` if it exists, `OSError` where it cannot be written.
    """
    directory = paths.absolute(paths.parse(directory))
    if directory.exists():
        raise InputError(f"{directory} exists already: remove it, or choose another destination")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not paths.is_remote(directory):
        with tempfile.TemporaryDirectory(dir=directory.parent):
            pass  # Orbax waits long for a folder that it may not write to
    metadata = {
        "clip": dataclasses.asdict(config),
        "digest": digest(leaves, config),
        **(metadata or {}),
    }
    tree = {path.replace("/", "."): np.asarray(x) for path, x in leaves.items()}
    ocp.save(directory, tree, custom_metadata=metadata)


def read_metadata(directory) -> tuple[CLIPConfig, dict]:
    """The shape of the model in an Orbax directory, and the rest of what `save` noted.

    Raises `InputError` where there is no such directory of ours.
    """
    directory = paths.absolute(paths.parse(directory))
    try:
        found = ocp.metadata(directory)
        metadata = dict(found.custom_metadata)
        fields = metadata.pop("clip")
    except Exception as error:  # Orbax raises its own kinds for what is not a checkpoint of its
        raise InputError(
            f"{directory} holds no converted weights: make them with "
            f"`python tools/convert_torch_weights.py CHECKPOINT {directory}`"
        ) from error
    if found.metadata is None:
        raise InputError(f"{directory} is incomplete: remove it and convert the weights again")
    return CLIPConfig(**fields | {"vision_layers": tuple(fields["vision_layers"])}), metadata


def load(directory, dtype=jnp.float32, sharding=None) -> CLIP:
    """The model in an Orbax directory; its arrays are put where `sharding` says."""
    config, _ = read_metadata(directory)
    model = abstract_model(config, dtype)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        path.replace("/", "."): jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for path, x in flatten(model).items()
    }
    tree = ocp.load(paths.absolute(paths.parse(directory)), abstract)
    leaves = {path.replace(".", "/"): x for path, x in tree.items()}
    return nnx.merge(nnx.graphdef(model), unflatten(leaves))
