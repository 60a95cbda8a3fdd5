"""The documented commands in the tests' own process, where a test can look inside a run."""

import contextlib
import io
import logging
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import pytest
from absl.testing import flagsaver

from safe_jax import commands as safe_jax_commands
from safe_jax import main
from safe_jax.experiment import compare
from safe_jax.experiment.results import Row
from safe_jax.experiment.trial import Trial
from safe_jax.runtime import command_line, devices
from tests import commands
from tests.commands import ROOT

_make_mesh = devices.make_mesh  # before a test has it make another


def call(*arguments: str) -> str:
    """What `python -m safe_jax.main` prints; a mistake raises `SystemExit` with its message."""
    argv = ["main", *arguments]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver(), _logging_restored():
        patch.setattr(sys, "argv", argv)  # ml_collections looks for knobs there
        rest = command_line.parse(argv)
        with contextlib.redirect_stdout(printed):
            main.main(rest)
    return printed.getvalue()


def run(root, workdir, cache, **knobs) -> str:
    """`commands.command` in this process, with as many devices as it has."""
    with contextlib.chdir(ROOT):
        return call(*commands.command(root, workdir, cache, **knobs)[3:])


def call_tiny(root, workdir, cache, **knobs) -> str:
    """`call` on the tiny data set under `root`, in little time, with `knobs` changed."""
    knobs = {
        "shots": "2", "seeds": "1", "epochs": 2, "batch_size": 8, "trunk_batch_size": 4,
        "workers": 2, "data_root": root, "weights": root / "clip_tiny", "cache_dir": cache, **knobs,
    }  # fmt: skip
    given = [f"--config.{knob}={value}" for knob, value in knobs.items()]
    with pytest.MonkeyPatch.context() as patch:
        mesh = devices.make_mesh(jax.devices()[:1])  # programs for more take longer to compile
        patch.setattr(devices, "make_mesh", lambda: mesh)
        return call("--config", str(ROOT / "tests" / "tiny.py"), "--workdir", str(workdir), *given)


class Watched(NamedTuple):
    """A run of one subset: what it printed, and its trial and rows as they were in memory."""

    workdir: pathlib.Path
    printed: str
    trial: Trial
    rows: dict[str, Row]


def watch_tiny(root, workdir, cache, **knobs) -> Watched:
    """`call_tiny` of one subset, none of whose rows are in `workdir` yet."""
    trials, rows = [], {}
    make_row = compare.row

    def noting(trial, name):
        made = make_row(trial, name)
        trials.append(trial)
        rows[name] = made[0]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "row", noting)
        printed = call_tiny(root, workdir, cache, **knobs)
    assert all(trial is trials[0] for trial in trials)
    return Watched(workdir, printed, trials[0], rows)


class Ended(NamedTuple):
    """A command that has ended: its exit code, and what it printed, but for bars of progress."""

    code: int
    out: str
    err: str


def safe_jax(*arguments: object) -> Ended:
    """`safe-jax` with these arguments, on one device; what is no mistake of a user is raised."""
    mesh = _make_mesh(jax.devices()[:1])
    out, err = (_Printed(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with (
        pytest.MonkeyPatch.context() as patch, _logging_restored(),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        patch.setattr(devices, "make_mesh", lambda given=None: _make_mesh(given) if given else mesh)
        try:
            code = safe_jax_commands.main(list(map(str, arguments)))
        except SystemExit as ended:  # argparse's
            code = int(ended.code or 0)
    return Ended(code, out.text(), err.text())


class _Printed(io.TextIOWrapper):
    """A stream in memory that takes texts and, as `sys.stdout.buffer`, bytes."""

    def text(self) -> str:
        self.flush()
        text = self.buffer.getvalue().decode("utf-8", "surrogateescape")  # type: ignore
        # Bars appear where it takes long: on a slow machine.
        return re.sub(r"(\r[^\r\n]*)+\n?", "", text)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """`main` sets up the package's logger, which other tests listen to."""
    logger = logging.getLogger("safe_jax")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
