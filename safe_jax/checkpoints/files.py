"""Checkpoint files: read without running anything that they contain, and written."""

import pathlib
from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from etils import epath

from safe_jax.checkpoints import torch_archive
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

# What trainers and compilers put before the names of a whole model.
_PREFIXES = "module.", "_orig_mod.", "clip_model.", "model."


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name.

    Reads a state dict that torch saved, alone or under `state_dict` as open_clip saves it, with or
    without a prefix as `module.`; OpenAI's TorchScript archives; and safetensors. A file's content
    says which it is, not its name. No code in a file is run.

    Raises `InputError` for a file that is absent, damaged or none of these.
    """
    path = paths.parse(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; a checkpoint (.pt or .safetensors) is expected")
    with paths.on_disk(path) as file:
        try:
            tensors = _read(file)
        except InputError as error:
            raise InputError(f"{path} cannot be read as a checkpoint: {error}") from error
        except Exception as error:  # the parsers raise many kinds for a damaged file
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise InputError(
                f"{path} cannot be read as a checkpoint (truncated, or damaged): {reason}"
            ) from error
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): x for name, x in tensors.items()}
    return tensors


def _read(file: pathlib.Path) -> dict[str, np.ndarray]:
    if torch_archive.is_archive(file):
        return torch_archive.read(file)
    if _is_safetensors(file):
        return safetensors.numpy.load_file(file)
    with open(file, "rb") as opened:
        start = opened.read(2)
    if start[:1] == b"\x80":
        raise InputError(
            "it is a bare pickle, as torch wrote before 1.6; load it in torch where it is trusted, "
            "and save it again"
        )
    raise InputError("neither an archive of torch nor safetensors")


def _is_safetensors(file: pathlib.Path) -> bool:
    with open(file, "rb") as opened:
        start = opened.read(9)
    return len(start) == 9 and start[8:] == b"{"


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
    return torch_archive.write(tensors)
