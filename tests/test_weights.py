"""Conversion: what goes in comes out, what does not fit is listed, nothing is left half-written."""

import functools
import hashlib
import http.server
import pathlib
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from safe_jax import clip
from safe_jax.clip import convert, download, torch_files, weights
from safe_jax.runtime.errors import InputError
from tests import torch_clip

SHAPE = {
    "layers": (1, 1, 1, 1),
    "width": 8,
    "embed_dim": 16,
    "image_size": 64,
    "text_width": 64,
    "text_layers": 1,
}


@pytest.fixture(scope="module")
def state():
    """As OpenAI stores it: mostly fp16, norms and positions fp32, batch counts, three integers."""
    state = torch_clip.random_state_dict(**SHAPE)
    for name in list(state):
        if state[name].ndim > 1 and "positional" not in name:
            state[name] = state[name].half()
        if name.endswith("running_var"):
            count = name.replace("running_var", "num_batches_tracked")
            state[count] = torch.tensor(4711)
    for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
        state[name] = torch.tensor(value)
    return state


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        x = x.numpy() if isinstance(x, torch.Tensor) else x
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(found[name], x, err_msg=name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip_is_bit_exact(state, tmp_path, suffix):
    torch.save(state, tmp_path / "in.pt")
    assert convert.main([str(tmp_path / "in.pt"), str(tmp_path / "orbax")]) == 0
    back = tmp_path / f"out{suffix}"
    assert convert.main(["--to-torch", str(tmp_path / "orbax"), str(back)]) == 0
    same(torch_files.read(back), state)


def test_open_clip_legacy_and_safetensors_layouts(state, tmp_path):
    """open_clip's wrapper and prefix, safetensors, and a script's archive all read the same."""
    wrapped = {"epoch": 3, "state_dict": {f"module.{n}": x for n, x in state.items()}}
    torch.save(wrapped, tmp_path / "open_clip.pt")
    same(torch_files.read(tmp_path / "open_clip.pt"), state)
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    same(torch_files.read(tmp_path / "legacy.pt"), state)
    plain = {n: np.asarray(x) for n, x in state.items()}
    torch_files.write(tmp_path / "x.safetensors", plain)
    same(torch_files.read(tmp_path / "x.safetensors"), state)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_archive(state, tmp_path):
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
    same(torch_files.read(tmp_path / "RN.pt"), state)


def test_bfloat16_survives(state, tmp_path):
    cast = {n: x.bfloat16() if x.is_floating_point() else x for n, x in state.items()}
    torch.save(cast, tmp_path / "in.pt")
    torch_files.convert(tmp_path / "in.pt", tmp_path / "orbax")
    torch_files.convert_back(tmp_path / "orbax", tmp_path / "out.pt")
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert back.keys() == cast.keys()
    assert all(torch.equal(back[n], x) and back[n].dtype == x.dtype for n, x in cast.items())


def test_every_offender_is_listed_and_nothing_written(state, tmp_path, capsys):
    broken = dict(state)
    del broken["visual.layer1.0.bn2.bias"], broken["transformer.resblocks.0.ln_1.weight"]
    broken["visual.extra"] = torch.zeros(3)
    broken["visual.attnpool.c_proj.bias"] = torch.zeros(17)
    torch.save(broken, tmp_path / "in.pt")
    assert convert.main([str(tmp_path / "in.pt"), str(tmp_path / "orbax")]) == 1
    said = capsys.readouterr().err
    assert "- visual.layer1.0.bn2.bias: missing" in said
    assert "- transformer.resblocks.0.ln_1.weight: missing" in said
    assert "+ visual.extra (3,)" in said
    assert "! visual.attnpool.c_proj.bias: shape (17,), expected (16,)" in said
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"visual.proj": torch.zeros(2, 2)}, "ViT image tower"),
        ({"visual.attnpool.positional_embedding": torch.zeros(6, 256)}, "has 6 rows; a square map"),
        ({"input_resolution": torch.tensor(224)}, "input_resolution: 224, but .* 64 pixels"),
        (
            {"ln_final.bias": torch.zeros(64, dtype=torch.float64)},
            "cast them:\n  ln_final.bias: flo",
        ),
        ({"ln_final.bias": torch.full((64,), torch.nan)}, "not finite:\n  ln_final.bias"),
    ],
)
def test_what_is_no_clip_resnet_is_refused(state, change, said):
    tensors = {n: x.numpy() for n, x in (state | change).items()}
    with pytest.raises(InputError, match=said):
        weights.from_torch(tensors)


def test_too_little_to_tell_the_shape():
    with pytest.raises(InputError, match=r"neither visual\.attnpool\.positional_embedding"):
        weights.from_torch({"fc.weight": np.zeros((3, 3), np.float32)})


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (pathlib.Path.touch, (self.file,))


def test_a_pickle_is_never_run(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match="never run"):
        torch_files.read(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_or_foreign_files_are_refused(state, tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    torch_files.write(whole, {n: np.asarray(x) for n, x in state.items()})
    cut = tmp_path / f"cut{suffix}"
    for content in (whole.read_bytes()[:-5000], whole.read_bytes()[:100], b"", b"not a checkpoint"):
        cut.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            torch_files.read(cut)
    with pytest.raises(InputError, match="no such file"):
        torch_files.read(tmp_path / f"absent{suffix}")


def test_a_list_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no state dict"):
        torch_files.read(tmp_path / "list.pt")
    torch.save({"lr": 0.1, "w": torch.zeros(3)}, tmp_path / "mixed.pt")
    with pytest.raises(InputError, match=r"not tensors: \['lr'\]"):
        torch_files.read(tmp_path / "mixed.pt")


def test_existing_destinations_are_kept(state, tmp_path):
    torch.save(state, tmp_path / "in.pt")
    (tmp_path / "orbax").mkdir()
    with pytest.raises(InputError, match="exists already"):
        torch_files.convert(tmp_path / "in.pt", tmp_path / "orbax")
    with pytest.raises(InputError, match="exists already"):
        torch_files.write(tmp_path / "in.pt", {})


def test_an_unwritable_destination_is_told_at_once(state, tmp_path, capsys):
    torch.save(state, tmp_path / "in.pt")
    assert convert.main([str(tmp_path / "in.pt"), "/dev/null/orbax"]) == 1
    assert capsys.readouterr().err.startswith("error: [Errno ")


def test_a_damaged_directory_is_told(state, tmp_path):
    torch.save(state, tmp_path / "in.pt")
    torch_files.convert(tmp_path / "in.pt", tmp_path / "orbax")
    for file in (tmp_path / "orbax").rglob("d/*"):
        file.unlink()
    # In a process of its own, for Orbax abandons its other reads, and they fail later in threads.
    arguments = ["--to-torch", str(tmp_path / "orbax"), str(tmp_path / "out.pt")]
    command = [sys.executable, "-m", "safe_jax.clip.convert", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is incomplete: remove it and convert the weights again" in done.stderr
    assert not (tmp_path / "out.pt").exists()


def test_load_says_how_to_get_weights(tmp_path):
    with pytest.raises(InputError, match=r"python tools/convert_torch_weights\.py"):
        clip.load(tmp_path / "nowhere")


def test_load_gives_float32_parameters(state, tmp_path):
    torch.save(state, tmp_path / "in.pt")
    torch_files.convert(tmp_path / "in.pt", tmp_path / "orbax")
    model = clip.load(tmp_path / "orbax", dtype=jnp.bfloat16)
    leaves = weights.flatten(model)
    assert {x.dtype for x in leaves.values()} == {np.dtype(np.float32)}
    assert isinstance(leaves["logit_scale"], jax.Array)
    assert weights.read_metadata(tmp_path / "orbax")[1]["digest"] == weights.digest(
        leaves, model.config
    )


def test_the_tool_runs_as_documented(state, tmp_path):
    torch.save(state, tmp_path / "in.pt")
    tool = pathlib.Path(__file__).parents[1] / "tools" / "convert_torch_weights.py"
    command = [sys.executable, str(tool), str(tmp_path / "in.pt"), str(tmp_path / "orbax")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.startswith("error:")
    assert again.stderr.count("\n") == 1


# Downloading, from a server on loopback that stands for OpenAI's.


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def released(state, tmp_path, monkeypatch):
    """A server with `RN50.pt` where OpenAI has it; yields its address and the file."""
    torch.save(state, tmp_path / "made.pt")
    content = (tmp_path / "made.pt").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    file = tmp_path / "served" / sha256 / "RN50.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.setitem(download.SHA256, "RN50", sha256)
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", file
        server.shutdown()


def test_download_verifies_converts_and_keeps(released, tmp_path):
    host, file = released
    folder = download.fetch("RN50", tmp_path / "cache", host)
    assert clip.load(folder).image_size == 64
    file.unlink()
    assert (
        download.fetch("RN50", tmp_path / "cache", host) == folder
    )  # from the cache: the server has it no more
    kept = sorted(p.name for p in (tmp_path / "cache" / "weights").iterdir())
    assert kept == ["RN50", "RN50.lock", "RN50.pt"]


def test_download_refuses_what_is_not_openais(released, tmp_path):
    host, file = released
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"sha256 .* expected .* put RN50.pt with sha256"):
        download.fetch("RN50", tmp_path / "cache", host)
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == ["RN50.lock"]
    by_hand = tmp_path / "cache" / "weights" / "RN50.pt"
    by_hand.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"is not OpenAI's RN50\.pt"):
        download.fetch("RN50", tmp_path / "cache", host)


def test_offline_says_what_to_put_where(released, tmp_path):
    _, file = released
    place = tmp_path / "cache" / "weights" / "RN50.pt"
    with pytest.raises(InputError, match=f"could not be downloaded .* at {place}"):
        download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(file.read_bytes())
    assert (
        clip.load(download.fetch("RN50", tmp_path / "cache", "http://127.0.0.1:1")).image_size == 64
    )
