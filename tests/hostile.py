"""Valid files of each kind that is read, edits that damage them, and what reading must do.

The property: whoever reads a damaged file gets the right value, or an `InputError` of one line,
soon, and nothing half-written is left.
"""

import contextlib
import copy
import io
import json
import pathlib
import shutil
import signal
import struct
import time
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st

from safe_jax.runtime.errors import InputError

SECONDS = 30  # that reading a small file may take, on a machine with other work


class Subject(NamedTuple):
    """Files that a folder holds, and how they are read.

    `is_sealed` tells files whose every byte is covered by a checksum or does not matter: what is
    read of them, damaged, is an error or equals what was written. `mends` tells those that are made
    anew where they are damaged: reading them is never an error.
    """

    folder: pathlib.Path
    read: Callable[[pathlib.Path], Any]
    is_sealed: bool = False
    mends: bool = False


class Edit(NamedTuple):
    """A way of damaging a file; `at` and `value` choose where and how."""

    kind: str
    at: float
    value: Any


VALUES = (
    None, True, 0, 1, -1, 3, 65, 0.5, 10**6, 10**15, 10**30, 1e308, -0.0, "", "x", " ", "1e9",
    "../../etc", "\x00", [], {}, [[]], [0], {"a": 1}, ["x"] * 1000, "drop", "twice",
)  # fmt: skip
EDITS = st.builds(
    Edit,
    st.sampled_from(
        ["cut", "flip", "flip early", "empty", "remove", "grow", "overwrite", "swap", "member",
         *["json"] * 4]
    ),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(VALUES),
)  # fmt: skip


def damage(folder: pathlib.Path, name: str, edit: Edit) -> None:
    """Edits the file of this name."""
    file = folder / name
    content = file.read_bytes()
    if edit.kind == "remove":
        file.unlink()
        return
    edited = _edited(file, content, edit)
    if edited is None:  # of JSON or of an archive alone
        edited = _flipped(content, edit.at, len(content))
    file.write_bytes(edited)


def _edited(file: pathlib.Path, content: bytes, edit: Edit) -> bytes | None:
    size = len(content)
    if edit.kind == "cut":
        return content[: int(edit.at * size)]
    if edit.kind == "flip":
        return _flipped(content, edit.at, size)
    if edit.kind == "flip early":  # where headers are
        return _flipped(content, edit.at, min(size, 200))
    if edit.kind == "empty":
        return b""
    if edit.kind == "grow":
        return content + bytes(1 + int(edit.at * 1000))
    if edit.kind == "overwrite":
        at = int(edit.at * size)
        return content[:at] + str(edit.value).encode() + content[at:][len(str(edit.value)) :]
    if edit.kind == "swap":  # with a file beside it
        others = sorted(p for p in file.parent.iterdir() if p.is_file() and p != file)
        return others[int(edit.at * len(others))].read_bytes() if others else b"\x00" * size
    if edit.kind == "member":
        return _member_edited(content, edit)
    return _json_edited(content, edit)


def _flipped(content: bytes, at: float, below: int) -> bytes:
    flipped = bytearray(content)
    if flipped:
        bit = int(at * below * 8)
        flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _json_edited(content: bytes, edit: Edit) -> bytes | None:
    """JSON, lines of JSON, or the header of safetensors, with a value replaced."""
    header = 8 if content[8:9] == b"{" and content[:1] != b"{" else 0
    start, stop = header, len(content)
    if header:
        stop = start + struct.unpack("<Q", content[:8])[0]
    elif b"\n{" in content.rstrip() and content[:1] == b"{":
        stop = content.index(b"\n")
    try:
        value = json.loads(content[start:stop])
    except ValueError:
        return None
    text = json.dumps(_replaced(value, edit)).encode()
    length = struct.pack("<Q", len(text)) if header else b""
    return length + text + content[stop:]


def _replaced(root: Any, edit: Edit) -> Any:
    """A copy of a tree with one of its nodes replaced, dropped or doubled."""
    root = copy.deepcopy(root)
    places = list(_places(root))
    if not places:
        return edit.value
    owner, key = places[int(edit.at * len(places))]
    if edit.value == "drop":
        del owner[key]
    elif edit.value == "twice":
        if isinstance(owner, list):
            owner.append(owner[key])
        else:
            owner["twice"] = owner[key]
    else:
        owner[key] = edit.value
    return root


def _places(tree: Any):
    if isinstance(tree, dict | list):
        keys = tree if isinstance(tree, dict) else range(len(tree))
        for key in keys:
            yield tree, key
            yield from _places(tree[key])


def _member_edited(content: bytes, edit: Edit) -> bytes | None:
    """An archive of torch with a bit flipped in a file of it, or that file cut, and a right CRC."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        return None
    pickles = [name for name in files if name.endswith("data.pkl")]
    name = [*files, *pickles * len(files)][int(edit.at * 2 * len(files))]
    part = edit.at * 9973 % 1
    old = files[name]
    files[name] = (
        old[: int(part * len(old))] if edit.value is None else _flipped(old, part, len(old))
    )
    edited = io.BytesIO()
    with zipfile.ZipFile(edited, "w") as archive:
        for name, old in files.items():
            archive.writestr(name, old)
    return edited.getvalue()


def files_of(folder: pathlib.Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def check(subject: Subject, folder: pathlib.Path, wanted: Any, edit: Edit) -> str:
    """Reads a damaged copy of a subject; raises `AssertionError` where the property fails.

    Returns `refused`, or what was read is `right` or, where nothing seals it, `other`.
    """
    before = files_of(folder)
    began = time.monotonic()
    try:
        with _alarm(2 * SECONDS):
            found = subject.read(folder)
    except InputError as error:
        found, line = None, str(error)
        assert not subject.mends, line
        assert line.strip()
        assert len(line) < 2000
        assert len(line.splitlines()) == 1 or "\n  " in line  # a listing is indented
    seconds = time.monotonic() - began
    assert seconds < SECONDS, f"{seconds:.1f} seconds"
    after = files_of(folder)
    assert not [name for name in after if "partial" in name or "tmp" in name]
    if not subject.mends:
        assert after == before
    if found is None:
        return "refused"
    if found == wanted:
        return "right"
    # An archive whose checksums were computed anew is another archive.
    assert not subject.is_sealed or edit.kind == "member", "another value was taken"
    return "other"


@contextlib.contextmanager
def _alarm(seconds: int):
    """Raises in whatever runs for too long in Python."""

    def ring(*_):
        raise AssertionError(f"longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def copied(subject: Subject, folder: pathlib.Path) -> pathlib.Path:
    """A fresh copy of the subject's files."""
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(subject.folder, folder)
