"""Weights by name: released CLIP ResNets, downloaded and verified, and the package's small CLIP."""

import contextlib
import hashlib
import http.client
import os
import pathlib
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import tqdm
from etils import epath

from safe_jax.checkpoints import named
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


# open_clip's (mlfoundations/open_clip, src/open_clip/pretrained.py): the file, whose name ends with
# the start of its sha256. Their text towers have QuickGELU, as OpenAI's.
OPEN_CLIP = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights"
OPEN_CLIP_FILES = {
    "RN50-yfcc15m": "rn50-quickgelu-yfcc15m-455df137.pt",
    "RN50-cc12m": "rn50-quickgelu-cc12m-f000538c.pt",
    "RN101-yfcc15m": "rn101-quickgelu-yfcc15m-3e04b30e.pt",
}
NAMES = (*SHA256, *OPEN_CLIP_FILES, "small")
# The licence of each, as the Hub calls it, and whose weights they are.
LICENCES = {
    **dict.fromkeys(SHA256, ("mit", "OpenAI's CLIP, released under the MIT licence")),
    **dict.fromkeys(OPEN_CLIP_FILES, ("mit", "open_clip's, released under the MIT licence")),
    "small": ("apache-2.0", "safe_jax's small CLIP, under the package's licence"),
}


class Release(NamedTuple):
    """A file of somebody's release; `sha256` is all of it, or its start."""

    url: str
    sha256: str


def release(name: str, host: str | None = None) -> Release:
    """Where the checkpoint of a name is; `host` stands in for the one that it was released on."""
    if name in SHA256:
        return Release(f"{host or HOST}/{SHA256[name]}/{name}.pt", SHA256[name])
    file = OPEN_CLIP_FILES[name]
    return Release(f"{host or OPEN_CLIP}/{file}", file.removesuffix(".pt").rpartition("-")[2])


def fetch(name: str, cache_dir: epath.PathLike, host: str | None = None) -> pathlib.Path:
    """The Orbax directory of one of `NAMES` under `cache_dir`, made on first use.

    Raises `InputError` where the file cannot be downloaded or is not the one that was released;
    the message says which file to put where by hand.
    """
    if name == "small":
        return unpack_small(cache_dir)
    converted = paths.cache(cache_dir) / "weights" / name
    with named.lock_missing(converted) as is_missing:
        if is_missing:
            _fetch(name, converted.with_name(f"{name}.pt"), converted, release(name, host))
    return converted


def unpack_small(cache_dir: epath.PathLike) -> pathlib.Path:
    """The Orbax directory of the package's small CLIP under `cache_dir`, made on first use."""
    folder = paths.cache(cache_dir) / "weights" / _sha256(SMALL)[:12]
    converted = folder / "small"
    with named.lock_missing(converted) as is_missing:
        if is_missing:
            _convert(SMALL, converted)
    return converted


def _fetch(name: str, checkpoint: pathlib.Path, converted: pathlib.Path, released: Release) -> None:
    if not checkpoint.exists():
        _download(released.url, checkpoint, released.sha256)
    elif not (found := _sha256(checkpoint)).startswith(released.sha256):
        raise InputError(
            f"{checkpoint} is not the {name}.pt that was released: its sha256 is {found}, expected "
            f"{released.sha256}. Remove it to have it downloaded again"
        )
    _convert(checkpoint, converted)


def _convert(checkpoint: pathlib.Path, converted: pathlib.Path) -> None:
    named.convert("safe_jax.clip.convert", checkpoint, converted)


def _download(url: str, destination: pathlib.Path, sha256: str) -> None:
    """Downloads a file; it appears at `destination` whole and verified, or not at all.

    What a try that broke off has left goes on where it ended.
    """
    by_hand = f"put {destination.name} with sha256 {sha256} at {destination}"
    partial = destination.with_name(f"{destination.name}.partial")
    with _opened_partial(partial) as file:
        try:
            _copy(url, file, destination.name)
        except (OSError, http.client.HTTPException) as error:
            goes_on = ""
            if size := file.seek(0, os.SEEK_END):
                goes_on = f"; {size / 1e6:.1f} MB are there, and the next try goes on from them"
            else:
                partial.unlink()
            raise InputError(
                f"{url} could not be downloaded ({error}){goes_on}. Try again, or {by_hand}"
            ) from error
    if not (found := _sha256(partial)).startswith(sha256):
        partial.unlink()
        raise InputError(
            f"{url} gave a file with sha256 {found}, expected {sha256} (replaced by a proxy, or "
            f"damaged on its way): try again, or {by_hand}"
        )
    partial.replace(destination)


@contextlib.contextmanager
def _opened_partial(path: pathlib.Path) -> Iterator[BinaryIO]:
    """The file of an earlier try at its end, or a new one.

    Raises `InputError` where somebody else has put something there.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): remove it") from error
    with open(descriptor, "r+b") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise InputError(f"{path} is not a file of yours: remove it")
        file.seek(0, os.SEEK_END)
        yield file


def _copy(url: str, file: BinaryIO, title: str) -> None:
    """Appends to an open file what it lacks of the file at `url`, and shows the progress.

    Raises `OSError` where less comes than was announced.
    """
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is there
            return
        raise
    with response:
        if start and response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the whole file comes
            start = 0
            file.seek(0)
            file.truncate()
        size = start + int(response.headers.get("Content-Length", 0)) or None
        with tqdm.tqdm(
            total=size, initial=start, unit="B", unit_scale=True, desc=title
        ) as progress:
            while block := response.read(1 << 20):
                file.write(block)
                progress.update(len(block))
    file.flush()
    if size and file.tell() < size:
        raise OSError(f"the connection broke off at {file.tell()} of {size} bytes")


def _sha256(file: pathlib.Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
