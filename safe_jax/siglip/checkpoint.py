"""A SigLIP's folder as Hugging Face has it: `config.json`, safetensors, `tokenizer.json`, ...

The shape is read off the tensors where they tell it. How many heads there are, how images are
preprocessed and which token fills a row stand in the JSON files alone.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from safe_jax.checkpoints import files, table
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Positive, Text
from safe_jax.siglip.config import EPSILON, SigLIPConfig
from safe_jax.siglip.table import KIND, TOKENIZER
from safe_jax.siglip.tokenizer import parse

CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_LARGEST_JSON = 1 << 26  # bytes; SigLIP 2's tokenizer.json has 34 million


class _Read(schema.Model):
    """Of a file of somebody else's: fields that have no meaning here are passed over."""

    model_config = ConfigDict(extra="ignore")


class _Tower(_Read):
    """A tower's part of `config.json`; what it leaves out is as in `google/siglip-base`."""

    num_attention_heads: Positive = 12
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = EPSILON


class _VisionTower(_Tower):
    vision_use_head: Literal[True] = True


class _Config(_Read):
    model_type: Literal["siglip"]
    text_config: _Tower = _Tower()
    vision_config: _VisionTower = _VisionTower()


class _Size(_Read):
    height: Positive
    width: Positive


class _Preprocessor(_Read):
    """`preprocessor_config.json`; `resample` has Pillow's numbers."""

    size: _Size
    resample: Literal[2, 3] = 3
    image_mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), strict=False)
    image_std: tuple[float, float, float] = Field((0.5, 0.5, 0.5), strict=False)


class _AddedToken(_Read):
    content: Text


class _TokenizerConfig(_Read):
    tokenizer_class: Text = ""
    pad_token: Text | _AddedToken


class Described(_Read):
    """What the JSON files of a folder say beside the shapes."""

    vision_heads: Positive
    text_heads: Positive
    image_size: Positive
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    canonical: Literal["lower_without_punctuation", "lower"]
    pad_token: int


def is_folder(path: pathlib.Path) -> bool:
    """Whether this is a folder of a model as Hugging Face has it."""
    return (path / CONFIG).is_file()


def read(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], Described]:
    """The tensors of a folder by name, the tokenizer's file among them, and what else is known.

    Raises `InputError` where a file is absent, damaged, or of another model.
    """
    tensors = _read_tensors(folder)
    json = _bytes(folder, TOKENIZER)
    described = _describe(folder, json)
    return {**tensors, TOKENIZER: np.frombuffer(json, np.uint8)}, described


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    if not (folder / INDEX).is_file():
        return files.read(folder / WEIGHTS)
    index = _json(folder, INDEX, _Index)
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(index.weight_map.values())):
        if pathlib.PurePath(shard).name != shard:
            raise InputError(
                f"{folder / INDEX} names {schema.shown(shard)}: a file of it is expected"
            )
        tensors |= files.read(folder / shard)
    return tensors


class _Index(_Read):
    weight_map: dict[Text, Text]


def _describe(folder: pathlib.Path, tokenizer_json: bytes) -> Described:
    config = _json(folder, CONFIG, _Config)
    towers = config.vision_config, config.text_config
    if any(tower.layer_norm_eps != EPSILON for tower in towers):
        raise InputError(f"{folder / CONFIG}: layer_norm_eps={EPSILON} is expected of a SigLIP")
    preprocessor = _json(folder, PREPROCESSING, _Preprocessor)
    size = preprocessor.size
    if size.height != size.width:
        raise InputError(
            f"{folder / PREPROCESSING}: images of {size.width} x {size.height} px; a square is "
            "expected"
        )
    words = _json(folder, TOKENIZER_CONFIG, _TokenizerConfig)
    pad = words.pad_token if isinstance(words.pad_token, str) else words.pad_token.content
    pad_id = parse(tokenizer_json).token_to_id(pad)
    if pad_id is None:
        raise InputError(
            f"{folder / TOKENIZER} lacks {schema.shown(pad)}, with which {TOKENIZER_CONFIG} pads"
        )
    return Described(
        vision_heads=config.vision_config.num_attention_heads,
        text_heads=config.text_config.num_attention_heads,
        image_size=size.height,
        interpolation="bilinear" if preprocessor.resample == 2 else "bicubic",
        mean=preprocessor.image_mean,
        std=preprocessor.image_std,
        canonical=_canonical(words.tokenizer_class),
        pad_token=pad_id,
    )


def _canonical(tokenizer_class: str) -> Literal["lower_without_punctuation", "lower"]:
    # SigLIP 2 has Gemma's tokenizer, and SigLIP one of its own.
    return "lower_without_punctuation" if tokenizer_class.startswith("SiglipT") else "lower"


def _json(folder: pathlib.Path, name: str, kind: type[Any]) -> Any:
    return schema.read_json(kind, _bytes(folder, name), f"{folder / name}: ")


def _bytes(folder: pathlib.Path, name: str) -> bytes:
    file = folder / name
    if not file.is_file():
        raise InputError(
            f"{folder} lacks {name}: {CONFIG}, {WEIGHTS}, {PREPROCESSING}, {TOKENIZER} and "
            f"{TOKENIZER_CONFIG} are expected, as a SigLIP on the Hugging Face Hub has them"
        )
    if file.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{file} has {file.stat().st_size} bytes, of at most {_LARGEST_JSON}")
    return file.read_bytes()


def infer_config(tensors: Mapping[str, np.ndarray], described: Described) -> SigLIPConfig:
    """The shape of a SigLIP, off its tensors and with what stands beside them.

    Raises `InputError` where the tensors that determine the shape are missing, and for a shape that
    no SigLIP of a fixed resolution has.
    """

    def size(name: str, axis: int) -> int:
        return table.size(tensors, KIND, (name, axis))

    patches = size("vision_model.embeddings.position_embedding.weight", 0)
    patch_size = size("vision_model.embeddings.patch_embedding.weight", 3)
    side = described.image_size // patch_size if patch_size else 0
    if side**2 != patches:
        raise InputError(
            f"images of {described.image_size} px have {side} x {side} patches of {patch_size} px, "
            f"but the checkpoint has positions of {patches}: {PREPROCESSING} belongs to another "
            "model, or to a NaFlex variant, which is not read"
        )
    fields = {
        **described.model_dump(),
        "patch_size": patch_size,
        "vision_width": size("vision_model.post_layernorm.weight", 0),
        "vision_mlp_width": size("vision_model.encoder.layers.0.mlp.fc1.weight", 0),
        "vision_layers": table.count(tensors, r"vision_model\.encoder\.layers\.(\d+)\."),
        "text_width": size("text_model.final_layer_norm.weight", 0),
        "text_mlp_width": size("text_model.encoder.layers.0.mlp.fc1.weight", 0),
        "text_layers": table.count(tensors, r"text_model\.encoder\.layers\.(\d+)\."),
        "vocab_size": size("text_model.embeddings.token_embedding.weight", 0),
        "context_length": size("text_model.embeddings.position_embedding.weight", 0),
        "tokenizer_bytes": size(TOKENIZER, 0),
    }
    return schema.check(SigLIPConfig, fields, "the checkpoint's ")
