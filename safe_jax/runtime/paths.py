"""Paths: of a disk, or of a bucket, as `gs://bucket/folder`.

`pathlib` would make `gs:/bucket` of the latter, so every path that is given comes through here. A
disk's is a `pathlib.Path`, a bucket's is etils': both have `/`, `exists`, `is_dir`, `iterdir`,
`mkdir`, `open`, `read_text` and `write_text`. What they do not do alike has a function.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

# Else etils would import TensorFlow to read a bucket, wherever that is installed.
os.environ.setdefault("EPATH_USE_TF", "false")

import filelock
import fsspec
from etils import epath

from safe_jax.runtime.errors import InputError

_REQUESTS = 64  # to a bucket at a time: each takes long, but costs nothing here


def is_remote(path) -> bool:
    return "://" in str(path)


def parse(given):
    """The path that a user gave; `~` is the home folder.

    Raises `InputError` for a bucket of a kind that cannot be read here.
    """
    if not is_remote(given):
        return pathlib.Path(given).expanduser()
    if not str(given).startswith("gs://"):
        raise InputError(f"{given}: a path on a disk, or in a bucket (gs://...), is expected")
    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError:
        raise InputError(
            f"{given}: buckets are read by gcsfs, which is not installed: pip install gcsfs"
        ) from None
    return epath.Path(given)


def join(root, given):
    """A path that a user gave, below `root` unless it is absolute."""
    if is_remote(given) or pathlib.Path(given).expanduser().is_absolute():
        return parse(given)
    return root / given


def absolute(path):
    """The path that is the same from everywhere, without links."""
    return path if is_remote(path) else path.resolve()


def cache(given) -> pathlib.Path:
    """The folder that `config.cache_dir` gives. Raises `InputError` for a bucket."""
    if is_remote(given):
        raise InputError(
            f"config.cache_dir={given}: banks are read by position, which takes a folder on a disk "
            "of this machine"
        )
    return parse(given)


def names(folder) -> list[str]:
    """What is in a folder, sorted, but for what is hidden."""
    found = (p.name for p in folder.iterdir()) if is_remote(folder) else os.listdir(folder)
    return sorted(name for name in found if name and not name.startswith("."))


def subfolders(folder) -> set[str]:
    """The folders in a folder by name, but for hidden ones."""
    if is_remote(folder):
        found = names(folder)
        are = map_files(lambda name: (folder / name).is_dir(), found, remote=True)
        return {name for name, is_folder in zip(found, are, strict=True) if is_folder}
    with os.scandir(folder) as entries:
        return {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}


def map_files(function, items: list, remote: bool) -> list:
    """What `function` returns for each item; many wait at a time where it asks a bucket."""
    if not remote:
        return list(map(function, items))
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, items))


def stamps(files: list) -> list[tuple[int | None, int | None]]:
    """Size and time of change, which tell a file from what stands there later; None if missing."""
    return map_files(_stamp, files, remote=any(map(is_remote, files[:1])))


def _stamp(file):
    try:
        stat = file.stat()
    except OSError:
        return None, None  # said by the check before extraction, with all others
    if is_remote(file):
        return stat.length, stat.mtime * 10**9
    return stat.st_size, stat.st_mtime_ns


def write(file, content: bytes) -> None:
    """Writes a file whole or not at all."""
    if is_remote(file):  # an object appears when all of it is there
        file.write_bytes(content)
        return
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    partial.replace(file)


def remove_folder(folder) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if is_remote(folder):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def on_disk(file):
    """A file of a disk with the same content, for those who read nothing else."""
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / file.name
        with file.open("rb") as source, open(copy, "wb") as destination:
            shutil.copyfileobj(source, destination, 1 << 24)
        yield copy


@contextlib.contextmanager
def lock(file) -> Iterator[None]:
    """Holds an exclusive lock on `file` of a disk, which is made; waits while another holds it.

    The lock goes with the process, however it ends.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file):
        yield
