"""The command that converts weights: one line for a mistake, and nothing is left half-written."""

import pathlib
import subprocess
import sys

import torch

from safe_jax.backbones import convert
from safe_jax.clip import convert as clip

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "convert_torch_weights.py"


def run_tool(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_tool_runs_as_documented(checkpoint, tmp_path, capsys):
    done = run_tool(checkpoint, tmp_path / "orbax")
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path / 'orbax'}" in done.stdout
    assert convert.main([str(checkpoint), str(tmp_path / "orbax")]) == 1  # as the tool would
    error = capsys.readouterr().err
    assert error.startswith("error:")
    assert error.count("\n") == 1


def test_every_tensor_that_does_not_fit_is_listed(state, tmp_path, capsys):
    broken = dict(state)
    del broken["visual.layer1.0.bn2.bias"], broken["transformer.resblocks.0.ln_1.weight"]
    broken["visual.extra"] = torch.zeros(3)
    broken["visual.attnpool.c_proj.bias"] = torch.zeros(17)
    torch.save(broken, tmp_path / "in.pt")
    assert convert.main([str(tmp_path / "in.pt"), str(tmp_path / "orbax")]) == 1
    message = capsys.readouterr().err
    assert "- visual.layer1.0.bn2.bias: missing" in message
    assert "- transformer.resblocks.0.ln_1.weight: missing" in message
    assert "+ visual.extra (3,)" in message
    assert "! visual.attnpool.c_proj.bias: shape (17,), expected (16,)" in message
    assert "embed_dim=16 image_size=64" in message
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_an_unwritable_destination_is_an_error_at_once(checkpoint, capsys):
    assert convert.main([str(checkpoint), "/dev/null/orbax"]) == 1
    message = "error: /dev/null: file exists; move it away, or name another\n"
    assert capsys.readouterr().err == message


def test_an_incomplete_directory_is_an_error(checkpoint, tmp_path):
    clip.convert(checkpoint, tmp_path / "orbax")
    for file in (tmp_path / "orbax").rglob("d/*"):
        file.unlink()
    # In a separate process, for Orbax abandons its other reads, which fail and are logged later.
    done = run_tool("--to-torch", tmp_path / "orbax", tmp_path / "out.pt")
    assert done.returncode == 1
    # Orbax logs lines of its own around it.
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.endswith("is incomplete: remove it and convert the weights again")
    assert not (tmp_path / "out.pt").exists()
