"""Checkpoint files: each form reads the same, a round trip keeps every bit, nothing is run."""

import pathlib

import numpy as np
import pytest
import torch

from safe_jax.backbones import convert as backbones_convert
from safe_jax.checkpoints import files as torch_files
from safe_jax.clip import convert
from safe_jax.runtime.errors import InputError
from tests.clip.parity import as_numpy


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in as_numpy(expected).items():
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_round_trip_is_exact(state, checkpoint, tmp_path, suffix):
    assert backbones_convert.main([str(checkpoint), str(tmp_path / "orbax")]) == 0
    back = tmp_path / f"out{suffix}"
    assert backbones_convert.main(["--to-torch", str(tmp_path / "orbax"), str(back)]) == 0
    assert_same(torch_files.read(back), state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "clip_model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_what_trainers_put_around_a_state_dict_is_taken_off(state, tmp_path, wrapper, prefix):
    content = {f"{prefix}{n}": x for n, x in state.items()}
    if wrapper:
        content = {"epoch": 3, wrapper: content, "lr": 0.1}
    torch.save(content, tmp_path / "x.pt")
    assert_same(torch_files.read(tmp_path / "x.pt"), state)


def test_a_files_content_says_what_it_is(state, tmp_path):
    torch_files.write(tmp_path / "x.safetensors", as_numpy(state))
    assert_same(torch_files.read(tmp_path / "x.safetensors"), state)
    (tmp_path / "x.safetensors").rename(tmp_path / "x.pt")
    assert_same(torch_files.read(tmp_path / "x.pt"), state)
    torch.save(state, tmp_path / "y.bin")
    assert_same(torch_files.read(tmp_path / "y.bin"), state)


def test_the_format_of_before_torch_1_6_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"bare pickle.*save it again"):
        torch_files.read(tmp_path / "legacy.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_reads_the_same(state, tmp_path):
    """Made as OpenAI's files are: a scripted module of nested ones, with fp16 and integers."""
    root = torch.nn.Module()
    for name, x in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        module.register_buffer(leaf, x)
    torch.jit.script(root).save(tmp_path / "RN.pt")
    assert_same(torch_files.read(tmp_path / "RN.pt"), state)


def test_a_round_trip_of_bfloat16_is_exact(state, tmp_path):
    cast = {n: x.bfloat16() if x.is_floating_point() else x for n, x in state.items()}
    torch.save(cast, tmp_path / "in.pt")
    convert.convert(tmp_path / "in.pt", tmp_path / "orbax")
    backbones_convert.convert_back(tmp_path / "orbax", tmp_path / "out.pt")
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert back.keys() == cast.keys()
    assert all(torch.equal(back[n], x) and back[n].dtype == x.dtype for n, x in cast.items())


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (pathlib.Path.touch, (self.file,))


def test_a_pickle_is_never_run(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="no part of a state dict"):
        torch_files.read(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_and_foreign_files_are_refused(state, tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    torch_files.write(whole, as_numpy(state))
    cut = tmp_path / f"cut{suffix}"
    for content in (whole.read_bytes()[:-5000], whole.read_bytes()[:100], b"", b"not a checkpoint"):
        cut.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            torch_files.read(cut)
    with pytest.raises(InputError, match="no such file"):
        torch_files.read(tmp_path / f"absent{suffix}")


def test_other_objects_than_a_state_dict_are_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no state dict"):
        torch_files.read(tmp_path / "list.pt")
    torch.save({"lr": 0.1, "w": torch.zeros(3)}, tmp_path / "mixed.pt")
    with pytest.raises(InputError, match=r"not tensors: 'lr'"):
        torch_files.read(tmp_path / "mixed.pt")


def test_an_existing_file_is_kept(checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        torch_files.write(checkpoint, {})
    assert checkpoint.read_bytes() == before
