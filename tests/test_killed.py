"""Runs that are cut off: the same command goes on and ends with the same rows."""

import os
import signal
import subprocess
import time

from tests.commands import ROOT, command, rows, run


def test_a_row_that_a_kill_cut_short_is_written_anew(done, tiny_root, tmp_path):
    workdir, cache, _ = done
    whole = (workdir / "results.jsonl").read_bytes()
    (tmp_path / "results.jsonl").write_bytes(whole[: len(whole) - 150])
    process = run(tiny_root, tmp_path, cache)
    assert process.returncode == 0, process.stderr
    assert rows(tmp_path) == rows(workdir)


def test_killed_five_times_in_extraction_and_five_in_tuning(done, tiny_root, tmp_path):
    """Kill -9 at different moments; the rows are those of the run that nothing disturbed."""
    workdir, cache = tmp_path / "run", tmp_path / "cache"

    def extracted():
        """Banks that are done, and maps of the one under way."""
        banks = list((cache / "banks").glob("*"))
        under_way = [file.read_text() for file in (cache / "banks").glob("*.partial/progress")]
        return sum(b.suffix == "" for b in banks), max((int(n) for n in under_way), default=0)

    def tuned():
        """Rows of SAFE that are written, and steps saved of the run under way."""
        results = workdir / "results.jsonl"
        written = results.read_text().count('"safe"') if results.exists() else 0
        shots, seed = [(2, 1), (2, 2), (4, 1), (4, 2), ("all", "done")][written]
        saved = (workdir / "checkpoints").glob(f"*-{shots}-{seed}-*/safe-*/*")
        return written, max((int(f.name) for f in saved if f.name.isdigit()), default=0)

    moments = [(extracted, m) for m in ((0, 4), (0, 12), (0, 28), (1, 4), (2, 4))]
    moments += [(tuned, m) for m in ((0, 1), (0, 3), (1, 2), (2, 4), (3, 6))]
    for progress, moment in moments:
        process = subprocess.Popen(
            command(tiny_root, workdir, cache), cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while progress() < moment:
            assert process.poll() is None, f"ended before {progress.__name__} was {moment}"
            assert progress()[0] <= moment[0], f"went past {progress.__name__} {moment}"
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = run(tiny_root, workdir, cache)
    assert last.returncode == 0, last.stderr
    assert "resuming at step" in last.stderr
    assert rows(workdir) == rows(done.workdir)


def test_sigterm_saves_and_the_same_command_goes_on(done, tiny_root, tmp_path):
    cache = done.cache
    workdir = tmp_path / "run"
    arguments = command(tiny_root, workdir, cache, checkpoint_every=10_000)
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((workdir / "checkpoints").glob("*")):
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: stopped after step" in said
    again = run(tiny_root, workdir, cache, checkpoint_every=10_000)
    assert "resuming at step" in again.stderr
    assert rows(workdir) == rows(done.workdir)
