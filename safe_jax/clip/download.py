"""Weights by name: OpenAI's CLIP ResNets, downloaded and verified, and the package's small CLIP."""

import contextlib
import hashlib
import http.client
import importlib.util
import os
import pathlib
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

import tqdm
from etils import epath

from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError

# Trained by tools/pretrain_small_clip.py; it comes with the package.
SMALL = pathlib.Path(__file__).with_name("small.safetensors")

HOST = "https://openaipublic.azureedge.net/clip/models"

# sha256 of each file, which is also the name of its folder (openai/CLIP, clip/clip.py).
SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
}


def fetch(name: str, cache_dir: epath.PathLike, host: str = HOST) -> pathlib.Path:
    """The Orbax directory of one of OpenAI's models under `cache_dir`, made on first use.

    Raises `InputError` where the file cannot be downloaded or is not the one that OpenAI released;
    the message says which file to put where by hand.
    """
    converted = paths.cache(cache_dir) / "weights" / name
    with _lock_missing(converted) as is_missing:
        if is_missing:
            _fetch(name, converted.with_name(f"{name}.pt"), converted, host)
    return converted


def unpack_small(cache_dir: epath.PathLike) -> pathlib.Path:
    """The Orbax directory of the package's small CLIP under `cache_dir`, made on first use."""
    folder = paths.cache(cache_dir) / "weights" / _sha256(SMALL)[:12]
    converted = folder / "small"
    with _lock_missing(converted) as is_missing:
        if is_missing:
            _convert(SMALL, converted)
    return converted


@contextlib.contextmanager
def _lock_missing(directory: pathlib.Path) -> Iterator[bool]:
    """Whether a directory is missing; if so, only this process makes it."""
    if directory.exists():
        yield False
        return
    with paths.lock(directory.with_name(f"{directory.name}.lock")):
        yield not directory.exists()  # another process may have made it while this one waited


def _fetch(name: str, checkpoint: pathlib.Path, converted: pathlib.Path, host: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{name}.pt is read by torch, on first use only: pip install 'safe_jax[torch]'"
        )
    if not checkpoint.exists():
        _download(f"{host}/{SHA256[name]}/{name}.pt", checkpoint, SHA256[name])
    elif (found := _sha256(checkpoint)) != SHA256[name]:
        raise InputError(
            f"{checkpoint} is not OpenAI's {name}.pt: its sha256 is {found}, expected "
            f"{SHA256[name]}. Remove it to have it downloaded again"
        )
    _convert(checkpoint, converted)


def _convert(checkpoint: pathlib.Path, converted: pathlib.Path) -> None:
    # In a separate process: it may need torch, which training never imports, and Orbax would wait
    # for all hosts of a run. On the CPU, because an accelerator may admit no second process.
    command = [sys.executable, "-m", "safe_jax.clip.convert", str(checkpoint), str(converted)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InputError(f"{checkpoint} was not converted: {done.stderr.strip()}")


def _download(url: str, destination: pathlib.Path, sha256: str) -> None:
    """Downloads a file; it appears at `destination` whole and verified, or not at all."""
    by_hand = f"put {destination.name} with sha256 {sha256} at {destination}"
    # Where others may write too, nobody can guess the name and place a file or link there first.
    partial = destination.with_name(f"{destination.name}.{secrets.token_hex(8)}.partial")
    with contextlib.ExitStack() as cleanup:
        try:
            with open(partial, "xb") as file:
                cleanup.callback(partial.unlink, missing_ok=True)
                _copy(url, file, destination.name)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{url} could not be downloaded ({error}): {by_hand}") from error
        if (found := _sha256(partial)) != sha256:
            raise InputError(
                f"{url} gave a file with sha256 {found}, expected {sha256} (truncated, or replaced "
                f"by a proxy): try again, or {by_hand}"
            )
        partial.replace(destination)


def _copy(url: str, file: BinaryIO, title: str) -> None:
    """Copies what is at `url` to an open file and shows the progress."""
    with urllib.request.urlopen(url, timeout=30) as response:
        size = int(response.headers.get("Content-Length", 0)) or None
        with tqdm.tqdm(total=size, unit="B", unit_scale=True, desc=title) as progress:
            while block := response.read(1 << 20):
                file.write(block)
                progress.update(len(block))


def _sha256(file: pathlib.Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
