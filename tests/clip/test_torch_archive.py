"""Archives of torch read without torch: as torch reads them, and hostile ones are refused."""

import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from safe_jax.checkpoints import torch_archive
from safe_jax.runtime.errors import InputError
from tests.clip.parity import as_numpy


def read(path, content):
    torch.save(content, path)
    return torch_archive.read(path)


def test_views_and_shared_storages_are_torchs(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    content = {
        "base": base,
        "shifted": base[5:9],
        "transposed": base.reshape(4, 6).T,
        "strided": base[::3],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }
    found = read(tmp_path / "x.pt", content)
    for name, x in content.items():
        np.testing.assert_array_equal(found[name], x.detach().numpy(), err_msg=name)
        assert found[name].flags.c_contiguous


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
     torch.int16, torch.int8, torch.uint8, torch.bool],
)  # fmt: skip
def test_every_type_is_read_and_written_bit_for_bit(tmp_path, dtype):
    x = torch.tensor([0, 1, -2, 100]).to(dtype)
    found = read(tmp_path / "x.pt", {"x": x})
    assert found["x"].tobytes() == x.view(torch.uint8).numpy().tobytes()
    (tmp_path / "back.pt").write_bytes(torch_archive.write(found))
    back = torch.load(tmp_path / "back.pt", weights_only=True)["x"]
    assert back.dtype == dtype
    assert torch.equal(back, x)


def test_the_same_tensors_give_the_same_bytes():
    tensors = {"a": np.ones((2, 3), np.float16), "b": np.zeros(4, ml_dtypes.bfloat16)}
    assert torch_archive.write(tensors) == torch_archive.write(tensors)


STATE = {"x": torch.arange(6, dtype=torch.float32)}


@pytest.fixture
def archive(tmp_path):
    """A function that saves a state dict, edits the archive's files, and gives its path."""

    def make(edit):
        whole = tmp_path / "whole.pt"
        torch.save(STATE, whole)
        with zipfile.ZipFile(whole) as before:
            files = {name: before.read(name) for name in before.namelist()}
        edit(files)
        edited = tmp_path / "edited.pt"
        with zipfile.ZipFile(edited, "w") as after:
            for name, content in files.items():
                after.writestr(name, content)
        return edited

    return make


def pickled(content):
    """An edit that puts another pickle in the place of data.pkl."""

    def edit(files):
        files["whole/data.pkl"] = content

    return edit


def without(name):
    return lambda files: files.pop(name)


def tensor(shape, strides, offset=0, count=6):
    """A pickle of a tensor that claims this of a storage with six elements."""
    return b"".join(
        [
            b"\x80\x02}", torch_archive._text("x"),
            torch_archive._global("torch._utils", "_rebuild_tensor_v2"), b"((",
            torch_archive._text("storage"), torch_archive._global("torch", "FloatStorage"),
            torch_archive._text("0"), torch_archive._text("cpu"), torch_archive._integer(count),
            b"tQ", torch_archive._integer(offset), torch_archive._integers(shape),
            torch_archive._integers(strides), b"\x89",
            torch_archive._global("collections", "OrderedDict"), b")RtRs.",
        ]
    )  # fmt: skip


def names(module, name):
    return b"\x80\x02" + torch_archive._global(module, name) + b"."


HOSTILE = {
    "a function of the system": (pickled(names("os", "system")), "os.system"),
    "a builtin": (pickled(names("builtins", "eval")), "builtins.eval"),
    "numpy's own loader": (pickled(names("numpy", "load")), "numpy.load"),
    "a quantized tensor": (
        pickled(names("torch._utils", "_rebuild_qtensor")), "_rebuild_qtensor"),
    "a whole module": (pickled(names("torch.nn.modules.linear", "Linear")), "Linear"),
    "terabytes": (pickled(tensor([1 << 40], [1])), "beyond its storage"),
    "terabytes by a stride of 0": (pickled(tensor([1 << 40], [0])), "beyond its storage"),
    "a view past the end": (pickled(tensor([3], [1], offset=4)), "beyond its storage"),
    "a stride past the end": (pickled(tensor([2, 3], [4, 1])), "beyond its storage"),
    "a negative offset": (pickled(tensor([1], [1], offset=-1)), "negative"),
    "more elements than bytes": (pickled(tensor([6], [1], count=7)), "24 bytes, not 7 x 4"),
    "a memo of gigabytes": (pickled(b"\x80\x02}r\xff\xff\xff\x7f."), "no state dict"),
    "text of gigabytes": (pickled(b"\x80\x02X" + struct.pack("<I", 1 << 31) + b"x."), None),
    "a list": (pickled(pickle.dumps([1, 2], 2)), "no state dict"),
    "keys that are no text": (pickled(pickle.dumps({1: 2}, 2)), "no state dict"),
    "an empty state dict": (pickled(pickle.dumps({}, 2)), "no state dict"),
    "a pickle cut short": (pickled(b"\x80\x02}"), None),
    "no pickle": (without("whole/data.pkl"), "data.pkl"),
    "no storage": (without("whole/data/0"), "storage 0 is missing"),
    "a storage cut short": (
        lambda files: files.update({"whole/data/0": b"1234"}), "4 bytes, not 6 x 4"),
    "an archive in the archive": (
        lambda files: files.update({"whole/in/data.pkl": files.pop("whole/data.pkl")}),
        "data.pkl"),
    "two pickles": (
        lambda files: files.update({"other/data.pkl": files["whole/data.pkl"]}), "data.pkl"),
    "big-endian": (lambda files: files.update({"whole/byteorder": b"big"}), "big-endian"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(archive, name):
    edit, message = HOSTILE[name]
    path = archive(edit)
    with pytest.raises((InputError, pickle.UnpicklingError, EOFError), match=message):
        torch_archive.read(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    at = content.index(np.arange(6, dtype=np.float32).tobytes())
    content[at + 5] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        torch_archive.read(tmp_path / "x.pt")


def test_two_files_of_one_name_are_refused(tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt", "a") as opened,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        opened.writestr("x/data/0", b"again")
    with pytest.raises(InputError, match="one name"):
        torch_archive.read(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_code_of_a_script_is_not_run(tmp_path, state):
    """Its `__setstate__` writes a file where torch loads it."""

    class Writes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("x", torch.ones(2))

        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return self.x, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            self.x = torch.from_file("RAN", True, 2)
            self.training = state[1]

    torch.jit.script(Writes()).save(tmp_path / "x.pt")
    with pytest.raises(InputError, match="no tensor"):
        torch_archive.read(tmp_path / "x.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]
    assert as_numpy(state)
