"""Checkpoint files: read without running code that they contain, converted, and written back."""

import io
import pathlib
import types
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from etils import epath

from safe_jax.clip import weights
from safe_jax.clip.config import Activation
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name.

    Reads a state dict, alone or under `state_dict` as open_clip saves it, with or without a
    `module.` prefix; OpenAI's TorchScript archives; and safetensors. Torch's weights-only loader
    refuses a pickle that would run code.

    Raises `InputError` for a file that is absent, damaged or none of these.
    """
    path = paths.parse(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; a checkpoint (.pt or .safetensors) is expected")
    try:
        with paths.on_disk(path) as file:
            if file.suffix == ".safetensors":
                tensors = safetensors.numpy.load_file(file)
            else:
                tensors = _read_torch(file)
    except InputError:
        raise
    except Exception as error:  # the parsers raise many kinds for a damaged file
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as a checkpoint (truncated, damaged, or a pickle of other "
            f"things than tensors, which is never run): {reason}"
        ) from error
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    return tensors


def write(path: epath.PathLike, tensors: dict[str, np.ndarray]) -> None:
    """Writes a state dict: as `.safetensors`, or with any other suffix as torch saves it.

    The file appears whole or not at all. Raises `InputError` if it exists.
    """
    path = paths.parse(path)
    if path.exists():
        raise InputError(f"{path} exists already: remove it, or choose another destination")
    content = encode(path, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write(path, content)


def encode(path: paths.Path, tensors: Mapping[str, np.ndarray]) -> bytes:
    """What a file of this name holds: `.safetensors`, or with any other suffix as torch saves."""
    if path.suffix == ".safetensors":
        return safetensors.numpy.save(dict(tensors))
    torch, file = _torch(), io.BytesIO()
    torch.save({name: _to_tensor(torch, x) for name, x in tensors.items()}, file)
    return file.getvalue()


def convert(
    source: epath.PathLike, destination: epath.PathLike, activation: Activation = "quick_gelu"
) -> None:
    """Reads a checkpoint and writes its Orbax directory. Raises `InputError`."""
    converted = weights.from_torch(read(source), activation)
    weights.save(destination, converted.config, converted.leaves, converted.extras)


def convert_back(source: epath.PathLike, destination: epath.PathLike) -> None:
    """Reads an Orbax directory and writes a state dict. Raises `InputError`."""
    extras = weights.read_metadata(source)
    write(destination, weights.to_torch(weights.flatten(weights.load(source)), extras))


def _torch() -> types.ModuleType:
    try:
        import torch
    except ImportError:
        raise InputError(
            "torch checkpoints are read and written by torch, which is not installed: "
            "pip install 'safe_jax[torch]', or use .safetensors files, which do not need it"
        ) from None
    return torch


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = _torch()
    if zipfile.is_zipfile(path) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()
    ):
        with warnings.catch_warnings():
            # TorchScript is deprecated for deploying models, but OpenAI's files need it.
            warnings.simplefilter("ignore")
            content = torch.jit.load(path, map_location="cpu").state_dict()
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds no state dict: a mapping of names to tensors is expected")
    others = [name for name, x in content.items() if not isinstance(x, torch.Tensor)]
    if others:
        raise InputError(f"{path} holds no state dict: these are not tensors: {others[:5]}")
    return {name: _to_numpy(torch, x.detach()) for name, x in content.items()}


def _to_numpy(torch: types.ModuleType, tensor: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _to_tensor(torch: types.ModuleType, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
