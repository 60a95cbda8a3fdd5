"""Released SigLIPs by name, from the Hugging Face Hub."""

import hashlib
import pathlib
from typing import Any

from etils import epath

from safe_jax.checkpoints import named
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError
from safe_jax.siglip.checkpoint import CONFIG, INDEX, PREPROCESSING, TOKENIZER_CONFIG, WEIGHTS
from safe_jax.siglip.table import TOKENIZER

# All of a fixed resolution (arXiv 2303.15343, 2502.14786); Apache-2.0.
NAMES = tuple(
    f"google/{name}"
    for name in (
        "siglip-base-patch16-224", "siglip-base-patch16-256", "siglip-base-patch16-384",
        "siglip-base-patch16-512", "siglip-base-patch16-256-multilingual",
        "siglip-large-patch16-256", "siglip-large-patch16-384", "siglip-so400m-patch14-224",
        "siglip-so400m-patch14-384", "siglip-so400m-patch16-256-i18n",
        "siglip2-base-patch32-256", "siglip2-base-patch16-224", "siglip2-base-patch16-256",
        "siglip2-base-patch16-384", "siglip2-base-patch16-512", "siglip2-large-patch16-256",
        "siglip2-large-patch16-384", "siglip2-large-patch16-512", "siglip2-so400m-patch14-224",
        "siglip2-so400m-patch14-384", "siglip2-so400m-patch16-256", "siglip2-so400m-patch16-384",
        "siglip2-so400m-patch16-512", "siglip2-giant-opt-patch16-256",
        "siglip2-giant-opt-patch16-384",
    )
)  # fmt: skip
# By the name of the directory that they are converted to.
LICENCES = {
    name.rpartition("/")[2]: ("apache-2.0", "Google's SigLIP, released under Apache-2.0")
    for name in NAMES
}
_FILES = CONFIG, PREPROCESSING, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, INDEX, "model-*.safetensors"


def fetch(name: str, cache_dir: epath.PathLike, endpoint: str | None = None) -> pathlib.Path:
    """The Orbax directory of one of `NAMES` under `cache_dir`, made on first use.

    The checkpoint stays in the Hub's own cache, where other libraries find it. `endpoint` stands in
    for https://huggingface.co. Raises `InputError` where it cannot be downloaded.
    """
    converted = paths.cache(cache_dir) / "weights" / name.rpartition("/")[2]
    with named.lock_missing(converted) as is_missing:
        if is_missing:
            named.convert("safe_jax.siglip.convert", _download(name, endpoint), converted)
    return converted


def _download(name: str, endpoint: str | None) -> pathlib.Path:
    hub = _library(name)
    try:
        folder = hub.snapshot_download(name, allow_patterns=list(_FILES), endpoint=endpoint)
        _verify(hub, name, pathlib.Path(folder), endpoint)
    except InputError:
        raise
    except Exception as error:  # of the library, of HTTP, of the disk
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"{name} could not be downloaded ({reason}). Try again: what is there already is kept. "
            "Or get the folder by hand, `safe-jax convert FOLDER DEST`, and name DEST"
        ) from error
    return pathlib.Path(folder)


def _verify(hub: Any, name: str, folder: pathlib.Path, endpoint: str | None) -> None:
    """Raises `InputError` for a large file that is not the one on the Hub."""
    files = [file.name for file in sorted(folder.iterdir()) if file.is_file()]
    infos = hub.HfApi(endpoint=endpoint).get_paths_info(name, files, revision=folder.name)
    for info in infos:
        if info.lfs is None:
            continue
        with open(folder / info.path, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != info.lfs.sha256:
            raise InputError(
                f"{folder / info.path} has sha256 {found}, expected {info.lfs.sha256}: remove it, "
                "to have it downloaded again"
            )


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{name} is fetched by huggingface_hub, which is not installed: "
            "pip install 'safe_jax[hub]'; or get the folder by hand, `safe-jax convert FOLDER "
            "DEST`, and name DEST"
        ) from None
    return huggingface_hub
