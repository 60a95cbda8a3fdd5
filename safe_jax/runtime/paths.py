"""Paths on a disk, or in a bucket (`gs://bucket/folder`).

`pathlib` would turn `gs://bucket` into `gs:/bucket`, so `parse` reads every path that a user gives.
Paths on a disk are `pathlib.Path`s, paths in a bucket are etils'. Both have `/`, `exists`,
`is_dir`, `iterdir`, `mkdir`, `open`, `read_text` and `write_text`; the functions here do the rest.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import itertools
import os
import pathlib
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

# Otherwise etils would import TensorFlow to read a bucket, if it is installed.
os.environ.setdefault("EPATH_USE_TF", "false")

import filelock
import fsspec
from etils import epath

from safe_jax.runtime import disk
from safe_jax.runtime.errors import InputError

Path = pathlib.Path | epath.Path
T = TypeVar("T")
U = TypeVar("U")

_REQUESTS = 64  # concurrent requests to a bucket: each takes long, but little work here


def is_remote(path: object) -> bool:
    return "://" in str(path)


def parse(given: epath.PathLike) -> Path:
    """The path that a user gave; `~` is the home folder.

    Raises `InputError` for a bucket other than Google's, if gcsfs is not installed, and for
    characters that no path can have.
    """
    if "\0" in str(given):
        raise InputError(f"{str(given)!r}: a path without NUL is expected")
    if not is_remote(given):
        return _expanded(given)
    if not str(given).startswith("gs://"):
        raise InputError(f"{given}: a path on a disk, or in a bucket (gs://...), is expected")
    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError:
        raise InputError(
            f"{given}: buckets are read by gcsfs, which is not installed: pip install gcsfs"
        ) from None
    return epath.Path(given)


def join(root: Path, given: epath.PathLike) -> Path:
    """The path that a user gave, below `root` unless it is absolute."""
    if is_remote(given) or pathlib.Path(given).expanduser().is_absolute():
        return parse(given)
    return root / given


def absolute(path: Any) -> Any:
    """The absolute path, with links resolved if it is on a disk."""
    return path if is_remote(path) else path.resolve()


def cache(given: epath.PathLike, knob: str = "config.cache_dir") -> pathlib.Path:
    """The folder that `knob` names. Raises `InputError` for a bucket, and where none can be."""
    if is_remote(given):
        raise InputError(
            f"{knob}={given}: banks are read by position, which takes a folder on a disk "
            "of this machine"
        )
    folder = _expanded(given)
    if not folder.is_dir():  # one that is there and complete may be read-only
        disk.check_writable(folder, knob)
    return folder


def _expanded(given: epath.PathLike) -> pathlib.Path:
    if "\0" in str(given):
        raise InputError(f"{str(given)!r}: a path without NUL is expected")
    try:
        return pathlib.Path(given).expanduser()
    except RuntimeError:
        raise InputError(
            f"{given}: no home folder is known; name a folder (config.cache_dir, or --cache-dir)"
        ) from None


def names(folder: Path) -> list[str]:
    """The names of all files and folders in a folder that are not hidden, sorted."""
    found = (p.name for p in folder.iterdir()) if is_remote(folder) else os.listdir(folder)
    return sorted(name for name in found if name and not name.startswith("."))


def subfolders(folder: Path) -> set[str]:
    """The names of all folders in a folder that are not hidden."""
    if is_remote(folder):
        found = names(folder)
        is_folder = map_files(lambda name: (folder / name).is_dir(), found, remote=True)
        return set(itertools.compress(found, is_folder))
    with os.scandir(folder) as entries:
        return {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}


def files_below(folder: Path) -> list[str]:
    """The files in a folder, and on a disk those in folders below it, by path; none is hidden."""
    if is_remote(folder):
        return names(folder)
    found = []
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(directory, folder)
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(found)


def map_files(function: Callable[[T], U], items: Sequence[T], remote: bool) -> list[U]:
    """Maps `function` over the items; if `remote`, in threads, as requests to a bucket wait."""
    if not remote:
        return list(map(function, items))
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, items))


def stamps(files: Sequence[Any]) -> list[tuple[int | None, int | None]]:
    """Size and modification time (ns) of each file, to detect changes; None if it is missing."""
    return map_files(_stamp, files, remote=any(map(is_remote, files[:1])))


def _stamp(file: Any) -> tuple[int | None, int | None]:
    try:
        stat = file.stat()
    except OSError:
        return None, None  # the check before extraction reports all missing files together
    if is_remote(file):
        return stat.length, stat.mtime * 10**9
    return stat.st_size, stat.st_mtime_ns


def write(file: Path, content: bytes | BinaryIO, durable: bool = True) -> None:
    """Writes a file whole or not at all; `durable` files also survive a power failure.

    The content may be an open file, which is read from where it stands.
    """
    if not isinstance(file, pathlib.Path):  # an object appears once its upload is complete
        file.write_bytes(content if isinstance(content, bytes) else content.read())
        return
    if durable:
        _remove_stale(file)
    temporary = _temporary(file)
    with disk.full_disk_told(file):
        # Mode x fails if anything is there, even a link; what is there must then not be removed.
        opened = open(temporary, "xb")  # noqa: SIM115
        try:
            with opened:
                if isinstance(content, bytes):
                    opened.write(content)
                else:
                    shutil.copyfileobj(content, opened)
                if durable:
                    opened.flush()
                    os.fsync(opened.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_folder(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder, which takes the place of `destination` after the block.

    If the block raises, the folder is removed. Raises `InputError` if `destination` has files:
    of two processes that write the same, the first to end keeps its own.
    """
    _remove_stale(destination)
    temporary = _temporary(destination)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(destination)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise InputError(f"{destination} exists already: remove it, or choose another") from None


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """A hidden path beside `path` that nobody can guess, so nobody can put a link there."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}.{secrets.token_hex(8)}.partial")


def _prefix(path: pathlib.Path) -> str:
    """How the names of this machine's temporary files for a path begin; a process follows."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return f".{digest}.{socket.gethostname()[:40]}."


def _remove_stale(path: pathlib.Path) -> None:
    """Removes what processes of this machine left that were killed while they wrote `path`."""
    prefix = _prefix(path)
    for name in os.listdir(path.parent):
        if name.startswith(prefix) and ".partial" in name:  # Orbax adds to the name
            process = name.removeprefix(prefix).partition(".")[0]
            if process.isdecimal() and not _is_alive(int(process)):
                remove_folder(path.with_name(name))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove_folder(folder: Path) -> None:
    """Removes a folder and its contents, if it exists, or a file in its place."""
    if isinstance(folder, pathlib.Path):
        if folder.is_file() or folder.is_symlink():
            folder.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.rmtree(missing_ok=True)


@contextlib.contextmanager
def on_disk(file: Path) -> Iterator[pathlib.Path]:
    """Yields the file itself, or a temporary copy on the disk if it is in a bucket."""
    if isinstance(file, pathlib.Path):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / file.name
        with file.open("rb") as source, open(copy, "wb") as destination:
            shutil.copyfileobj(source, destination, 1 << 24)
        yield copy


@contextlib.contextmanager
def lock(file: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on `file`, which is created; waits while another process holds it.

    The system releases the lock when the process ends, even if it is killed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file):
        yield
