"""Commands that are cut off: nothing half-written stays, and the same command makes the same."""

import re
import signal
import subprocess
import sys

import pytest

from safe_jax.classifier import artifact
from safe_jax.estimator import fit
from tests import interrupted
from tests.commands import ROOT
from tests.fitted import EPOCHS, RATES, SHOTS, TEMPLATE


def test_a_fit_that_was_killed_makes_the_same_classifier(bench, fitted, tmp_path, monkeypatch):
    """Killed twice while it tunes the first rate, and once while it tunes the second.

    One process is killed; in this process, which does the rest, an exception ends the command.
    """
    output = tmp_path / "made" / "classifier"
    given = [
        "fit", bench.photos, "--output", output, "--weights", bench.weights, "--template", TEMPLATE,
        "--shots", SHOTS, "--epochs", EPOCHS, "--learning-rates", RATES,
    ]  # fmt: skip
    alone = [sys.executable, "-m", "safe_jax", *given, "--cache-dir", bench.cache]
    process = subprocess.run(
        interrupted.command(list(map(str, alone)), "step", 7, signal.SIGKILL),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not output.parent.exists()

    # A state every ten steps, in place of every 500, which are more than are taken here.
    config = fit._config

    def often(*arguments):
        return config(*arguments).model_copy(update={"checkpoint_every": 10})

    monkeypatch.setattr(fit, "_config", often)
    # 13 steps are taken; then 30, of those from the tenth on, and 15 with the other rate.
    for call in (14, 46):
        with monkeypatch.context() as patch:
            interrupted.die(patch.setattr, "step", call)
            with pytest.raises(interrupted.Death):
                bench.safe_jax(*given)
        assert not output.parent.exists()
    code, out, err = bench.safe_jax(*given)
    assert code == 0, err
    assert re.findall(r"resuming at step (\d+) of 40", err) == ["40", "10"]
    assert out == fitted.ended.out.replace(str(fitted.folder), str(output))
    for name in ("classifier.json", "model.safetensors"):
        assert (output / name).read_bytes() == (fitted.folder / name).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == ["classifier"]
    left = list((bench.cache / "tuning").glob(f"safe-*-{SHOTS}-1-*"))
    assert {path.suffix for path in left} == {".lock"}


def test_a_fit_that_dies_while_it_writes_leaves_nothing(bench, fitted, tmp_path, monkeypatch):
    loaded = artifact.load(fitted.folder)
    monkeypatch.setattr(fit, "fit", lambda *_: loaded)
    for call in (1, 2, 3):
        with monkeypatch.context() as patch:
            interrupted.die(patch.setattr, "file", call)
            with pytest.raises(interrupted.Death):
                bench.fit(bench.photos, tmp_path / "made" / "classifier")
        assert not any((tmp_path / "made").iterdir())


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_a_prediction_that_was_killed_leaves_no_file(bench, fitted, tmp_path, monkeypatch, name):
    """Many rows are there, but not all; what was there before stays."""
    output = tmp_path / name
    given = "predict", fitted.folder, bench.photos / "train", "--output", output
    for before in ([], ["kept\n"]):
        output.write_text(*before) if before else None
        with monkeypatch.context() as patch:
            interrupted.die(patch.setattr, "answer", 37)
            with pytest.raises(interrupted.Death):
                bench.safe_jax(*given)
        assert [path.read_text() for path in tmp_path.iterdir()] == before
    assert bench.safe_jax(*given).code == 0
    assert output.read_text() != "kept\n"
