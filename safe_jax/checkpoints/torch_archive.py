"""Torch's checkpoint archives, read and written without torch: nothing in a file is ever run.

An archive is a zip file of `NAME/data.pkl`, a pickle of the structure, and `NAME/data/KEY`, the
bytes of each storage. The pickle may name no function and no class but those of `_NAMES`. Objects
of TorchScript, whose code is beside them, become bags of attributes; that code is not looked at.
What a tensor claims to be is checked against the bytes that are there, and these against their
checksum.

Raises `InputError` for whatever is not so.
"""

import collections
import functools
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from safe_jax.runtime.errors import InputError

_LONGEST_PICKLE = 64 << 20  # bytes; a CLIP's is 50 KB, an optimizer's beside it 1 MB
_MOST_TENSORS = 100_000

_STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Storage(NamedTuple):
    """The elements of a storage, read when a tensor needs them."""

    dtype: np.dtype
    count: int
    read: Callable[[], np.ndarray]


class _Tensor(NamedTuple):
    """A tensor that was named, and checked, but not read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """A copy of its values, in the order of its axes."""
        dtype = self.storage.dtype
        flat = self.storage.read()[self.offset :]
        strides = [stride * dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)
        return np.array(view, order="C")


class _Object:
    """An object of TorchScript: attributes, and no behaviour."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(x) is int and x >= 0 for x in numbers):
        raise InputError("a tensor without a storage, or of a negative size")
    if len(shape) != len(strides) or len(shape) > 8:
        raise InputError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    count = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.count or count > storage.count):
        raise InputError(f"a tensor of {shape} reaches beyond its storage of {storage.count}")
    return _Tensor(storage, offset if count else 0, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


# All that a pickle may name.
_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined]
    """Python's own unpickler: the one in C allocates whatever a file asks for."""

    def __init__(self, content: bytes, storages: Mapping[str, zipfile.ZipInfo], read: Callable):
        super().__init__(io.BytesIO(content))
        self._storages, self._read_member = storages, read

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        if (module, name) not in _NAMES:
            raise InputError(f"it names {module}.{name}, which is no part of a state dict")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(count) is not int:
            raise InputError("it refers to something that is no storage")
        member = self._storages.get(str(key))
        if member is None:
            raise InputError(f"the storage {key} is missing")
        if count < 0 or count * dtype.itemsize != member.file_size:
            raise InputError(
                f"the storage {key} has {member.file_size} bytes, not {count} x {dtype.itemsize}"
            )
        little = dtype if dtype.itemsize == 1 else dtype.newbyteorder("<")
        return _Storage(
            dtype,
            count,
            lambda: np.frombuffer(self._read_member(member.filename), little).astype(dtype),
        )


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file is a zip file, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, alone or wrapped, or of a TorchScript archive, by name."""
    with zipfile.ZipFile(path) as archive:
        root, members = _members(archive)
        pickled = members["data.pkl"]
        if pickled.file_size > _LONGEST_PICKLE:
            raise InputError(f"its data.pkl of {pickled.file_size} bytes is no state dict's")
        storages = {
            name.removeprefix("data/"): member
            for name, member in members.items()
            if name.startswith("data/")
        }
        if members.get("byteorder") and archive.read(members["byteorder"]).strip() != b"little":
            raise InputError("it was written on a big-endian machine: save it as .safetensors")
        # Tensors that share a storage follow each other, so the last few suffice.
        read_storage = functools.lru_cache(maxsize=4)(archive.read)
        content = _Unpickler(archive.read(pickled), storages, read_storage).load()
        is_script = isinstance(content, _Object)
        tensors = dict(_tensors_of(content)) if is_script else unwrapped(content)
        if not tensors:
            raise InputError(f"{root} holds no tensor")
        return {name: x.read() for name, x in tensors.items()}


def _members(archive: zipfile.ZipFile) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The name of the archive's only folder, and its files by their names in it."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise InputError("two files of the archive have one name")
    roots = {name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")}
    roots = {root for root in roots if "/" not in root}
    if len(roots) != 1:
        raise InputError("a state dict (data.pkl) is not in the archive")
    (root,) = roots
    members = {
        info.filename.removeprefix(f"{root}/"): info
        for info in infos
        if info.filename.startswith(f"{root}/")
    }
    packed = [
        name for name, info in members.items()
        if name.startswith("data/") and info.compress_type != zipfile.ZIP_STORED
    ]  # fmt: skip
    if packed:
        raise InputError(f"{packed[0]} is compressed, which torch's archives never are")
    return root, members


def _tensors_of(module: _Object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a module and of those in it, by dotted names, as `state_dict` has them."""
    if not isinstance(module.state, dict) or depth > 100:
        return
    for name, value in module.state.items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Object):
            yield from _tensors_of(value, f"{prefix}{name}.", depth + 1)


_WRAPPERS = "state_dict", "model_state_dict", "model"


def unwrapped(content: Any) -> dict[str, Any]:
    """The state dict in what a checkpoint holds: itself, or under a name that trainers use."""
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content:
        raise InputError("it holds no state dict: a mapping of names to tensors is expected")
    if len(content) > _MOST_TENSORS:
        raise InputError(f"it has {len(content)} tensors, more than any CLIP")
    others = [repr(name) for name, x in content.items() if not isinstance(x, _Tensor)]
    others += [repr(name) for name in content if not isinstance(name, str)]
    if others:
        raise InputError(f"it holds no state dict: these are not tensors: {', '.join(others[:5])}")
    return content


def write(tensors: Mapping[str, np.ndarray]) -> bytes:
    """An archive that `torch.load` reads as a state dict, with weights alone allowed."""
    names = {dtype: name for name, dtype in _STORAGES.items()}
    pickled = [b"\x80\x02", _global("collections", "OrderedDict"), b")R("]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for number, (name, x) in enumerate(tensors.items()):
            x = np.asarray(x, order="C")
            strides = [s // x.itemsize for s in x.strides]
            pickled += [
                _text(name),
                _global("torch._utils", "_rebuild_tensor_v2"),
                b"((", _text("storage"), _global("torch", names[x.dtype]), _text(str(number)),
                _text("cpu"), _integer(x.size), b"tQ",
                _integer(0), _integers(x.shape), _integers(strides), b"\x89",
                _global("collections", "OrderedDict"), b")RtR",
            ]  # fmt: skip
            archive.writestr(_member(f"data/{number}"), x.tobytes())
        archive.writestr(_member("data.pkl"), b"".join([*pickled, b"u."]))
        archive.writestr(_member("byteorder"), b"little")
        archive.writestr(_member("version"), b"3\n")
    return content.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"archive/{name}")  # of a fixed date: the same bytes every time


# Opcodes of pickle's protocol 2.


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _integers(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
