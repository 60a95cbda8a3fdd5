"""Files that a user or another program wrote: what is no file, or no text, gets one line."""

import csv
import io
import os
import pathlib
import stat
from typing import Any

from safe_jax.runtime.errors import InputError
from safe_jax.runtime.paths import Path

# What a path may lead to instead of a file. Reading a pipe waits for ever, and a device is endless.
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def opened(path: Any) -> io.BufferedReader:
    """Opens a file to be read. Raises `InputError`, without its name, for what is no file."""
    if not isinstance(path, pathlib.Path):
        return path.open("rb")
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind in _KINDS:
        raise InputError(f"{_KINDS[kind]}, where a file is expected")
    return open(path, "rb", opener=_at_once)


def _at_once(path: str, flags: int) -> int:
    """Opens without waiting, were a pipe put there meanwhile."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def exists(path: Path) -> bool:
    """Whether anything is there; what is too long to be a path is not."""
    try:
        return path.exists()
    except OSError:
        return False


def read(path: Path, absent: str) -> bytes:
    """What is in a file. Raises `InputError` where it cannot be read; `absent` says what to do."""
    try:
        with opened(path) as file:
            return file.read()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: {absent}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path, absent: str) -> str:
    """As `read`, of UTF-8; a byte-order mark, which editors of Windows write, is skipped."""
    try:
        text = read(path, absent).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: UTF-8 is expected ({error.reason} at {error.start})") from None
    if "\0" in text:
        raise InputError(f"{path}: UTF-8 is expected, not bytes that are 0")
    return text


def read_csv(path: Path, absent: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the line that it ends in."""
    table = csv.reader(io.StringIO(read_text(path, absent), newline=""), strict=True)
    rows, ends = [], 0
    try:
        for row in table:
            ends = table.line_num
            rows.append((ends, row))
    except csv.Error as error:
        # Where the row begins: a quote that nothing closes ends with the file.
        raise InputError(f"{path}, line {ends + 1}: {error}") from None
    return [(number, row) for number, row in rows if row]
