"""Runs that are cut off: the same command goes on and ends with the same rows."""

import re
import signal
import subprocess

import pytest

from tests import in_process, interrupted
from tests.commands import ROOT, command, rows


@pytest.mark.usefixtures("one_device")
def test_a_row_that_a_kill_cut_short_is_written_anew(done, tiny_root, tmp_path):
    workdir, cache, _ = done
    whole = (workdir / "results.jsonl").read_bytes()
    (tmp_path / "results.jsonl").write_bytes(whole[: len(whole) - 150])
    in_process.run(tiny_root, tmp_path, cache)
    assert rows(tmp_path) == rows(workdir)


@pytest.mark.usefixtures("one_device")
def test_killed_five_times_in_extraction_and_five_in_tuning(done, tiny_root, tmp_path, capsys):
    """At ten moments of one run; the rows are those of the run that nothing disturbed.

    Two processes are killed; in this process, which does the rest, an exception ends the run.
    """
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    every_step = {"checkpoint_every": 1}

    def banks():
        """How many banks are whole, and how many maps of the next are recorded."""
        whole = [bank for bank in (cache / "banks").glob("*") if bank.suffix == ""]
        recorded = [file.read_text() for file in (cache / "banks").glob("*.partial/progress")]
        return sum(bank.is_dir() for bank in whole), max(map(int, recorded), default=0)

    def written():
        """The rows that are written, and the last step of the next of which there is a state."""
        file = workdir / "results.jsonl"
        states = (workdir / "checkpoints").glob("*/safe-*/*")
        steps = [int(folder.name) for folder in states if folder.name.isdigit()]
        return file.read_text().count("\n") if file.exists() else 0, max(steps, default=0)

    # Banks have 28, 23 and 48 maps, of which 4 are a batch; the first two subsets take 5 steps, the
    # others 10. The counts start anew with every start.
    moments = [
        ("image", 10, None, banks, (0, 4), (0, 4)),
        ("image", 22, signal.SIGKILL, banks, (0, 4), (0, 24)),
        ("bank", 1, None, banks, (0, 28), (0, 28)),
        ("image", 10, None, banks, (1, 4), (1, 4)),
        ("image", 30, None, banks, (2, 4), (2, 4)),
        ("step", 3, None, written, (1, 2), (1, 2)),
        ("step", 3, signal.SIGKILL, written, (1, 2), (1, 4)),
        ("row", 1, None, written, (1, 5), (1, 5)),
        ("step", 4, None, written, (3, 3), (3, 3)),
        ("step", 9, None, written, (5, 6), (5, 6)),
    ]
    for point, call, number, progress, earliest, latest in moments:
        if number:
            arguments = command(tiny_root, workdir, cache, **every_step)
            process = subprocess.run(
                interrupted.command(arguments, point, call, number), cwd=ROOT, capture_output=True
            )
            assert process.returncode == -number, process.stderr
        else:
            with pytest.MonkeyPatch.context() as patch:
                interrupted.die(patch.setattr, point, call)
                with pytest.raises(interrupted.Death):
                    in_process.run(tiny_root, workdir, cache, **every_step)
        assert earliest <= progress() <= latest, (point, call)
    in_process.run(tiny_root, workdir, cache, **every_step)
    assert rows(workdir) == rows(done.workdir)
    resumed = re.findall(r"resuming .*at (?:map|step) (\d+) of", capsys.readouterr().err)
    exact = resumed[1:4] + resumed[5:]  # the others follow a SIGKILL
    assert list(map(int, exact)) == [28, 4, 4, 5, 3, 6]


@pytest.mark.usefixtures("one_device")
def test_a_signal_saves_and_the_same_command_goes_on(done, tiny_root, tmp_path, capsys):
    arguments = command(tiny_root, tmp_path, done.cache)  # which saves no state by itself
    process = subprocess.run(
        interrupted.command(arguments, "step", 3, signal.SIGINT),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 128 + signal.SIGINT, process.stderr
    assert "SIGINT: stopped after step 3; the same command goes on" in process.stderr
    assert "Traceback" not in process.stderr
    in_process.run(tiny_root, tmp_path, done.cache)
    assert "resuming at step 3 of 5" in capsys.readouterr().err
    assert rows(tmp_path) == rows(done.workdir)
