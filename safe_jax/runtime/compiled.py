"""The cache of compiled programs: what one process compiled, the next reads from the disk.

It is JAX's persistent compilation cache. Its entries are machine code, which JAX runs as it finds
it, so a folder of another user than root, or to which everybody may write, is not used.
"""

import contextlib
import importlib
import logging
import os
import pathlib
import stat
import time
import warnings
import zlib

import jax

log = logging.getLogger(__name__)

MOST_BYTES = 2 << 30  # kept of all programs; the README's first command has 1 MB of them
_NEVER = 1e9  # seconds that no compilation takes
_MOST_CHECKED = 16 << 20  # bytes of entries that are read at every start
_MEANWHILE = 60  # seconds in which another process may still be writing an entry
_ZSTD = b"\x28\xb5\x2f\xfd"


def keep_in(folder: pathlib.Path) -> None:
    """Keeps compiled programs in a folder, unless the environment names another.

    Several processes may share it, and it may be read-only. Entries that a killed process or a full
    disk left half-written are removed, and of too many those that are longest out of use. Whatever
    goes wrong with a cache costs time and nothing else, so nothing is raised.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if others := _others_who_write(folder):
            log.warning("compiled programs are not kept: %s belongs to %s", folder, others)
            return
        writes = os.access(folder, os.W_OK)
        if writes:
            _tidy(folder)
    except OSError as error:
        log.warning("compiled programs are not kept in %s: %s", folder, error.strerror or error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs take long as well: tracing aside, some hundredths of a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0 if writes else _NEVER)
    # An entry that cannot be read is compiled, one that cannot be written is compiled next time.
    for verb in ("reading", "writing"):
        warnings.filterwarnings("ignore", f"Error {verb} persistent compilation cache entry")


def _others_who_write(folder: pathlib.Path) -> str | None:
    found = folder.stat()
    if found.st_uid not in (os.geteuid(), 0):
        return f"user {found.st_uid}"
    return "whoever likes to write there" if found.st_mode & stat.S_IWOTH else None


def _tidy(folder: pathlib.Path) -> None:
    """Removes damaged entries, as far as the newest are looked through, and old ones of many."""
    found = []
    for entry in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies up as well
            found.append((entry, entry.stat()))
    settled = time.time() - _MEANWHILE
    checked = total = 0
    for entry, stats in sorted(found, key=lambda pair: pair[1].st_mtime, reverse=True):
        if stats.st_mtime > settled or (checked := checked + stats.st_size) > _MOST_CHECKED:
            continue
        with contextlib.suppress(FileNotFoundError):
            if not _is_whole(entry.read_bytes()):
                entry.unlink()
    for entry, stats in sorted(found, key=lambda pair: _last_used(pair[1]), reverse=True):
        total += stats.st_size
        if total > MOST_BYTES:
            entry.unlink(missing_ok=True)


def _last_used(stats: os.stat_result) -> float:
    return max(stats.st_atime, stats.st_mtime)


def _is_whole(entry: bytes) -> bool:
    """Whether what JAX has compressed can be decompressed; true where that cannot be told."""
    try:
        if entry.startswith(_ZSTD):  # where JAX finds the package zstandard
            importlib.import_module("zstandard").ZstdDecompressor().decompress(entry)
        else:
            zlib.decompress(entry)
    except ImportError:
        return True
    except Exception:  # of a class of either library
        return False
    return True
