"""`safe-jax` itself: what it offers, what it says of a mistake, and what it leaves untouched."""

import importlib.metadata
import logging

import jax
import numpy as np
import pytest

from safe_jax.commands import COMMANDS
from tests import in_process


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_every_command_is_offered(arguments):
    code, out, err = in_process.safe_jax(*arguments)
    assert (code, err) == (0, "")
    for name, meaning in COMMANDS.items():
        assert f"  {name:10}{meaning}\n" in out
    assert "safe-jax COMMAND --help" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name):
    code, out, err = in_process.safe_jax(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: safe-jax {name} ")
    example = out[out.rindex("example:") :].removeprefix("example:").strip()
    assert example.startswith(f"safe-jax {name} ")
    assert "\n" not in example


def test_the_version_is_that_of_the_package():
    version = importlib.metadata.version("safe_jax")
    assert in_process.safe_jax("--version") == (0, f"safe_jax {version}\n", "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("predit", "did you mean predict?"),
        ("fitt", "did you mean fit?"),
        ("eval", "did you mean evaluate?"),
        ("zzz", f"one of {', '.join(COMMANDS)} is expected"),
    ],
)
def test_an_unknown_command_gets_a_near_one(name, hint):
    said = f"error: there is no command {name!r}: {hint}\n"
    assert in_process.safe_jax(name, "--help") == (1, "", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("predict", "m", "1.jpg", "--top", "0"),
            "--top: a whole number of at least 1 is expected, not 0",
        ),
        (
            ("fit", "photos", "--shots", "few"),
            "--shots: a whole number of at least 1 is expected, not f",
        ),
        (("fit", "photos", "--learning-rates", "x"), "numbers are expected, as 0.1,0.01, not x"),
        (("predict", "m", "1.jpg", "--threshold", "2"), "a number from 0 to 1 is expected, not 2"),
        (("fit", "photos"), "the following arguments are required: --output"),
        (("fit", "photos", "--output", "m", "--method", "saf"), "invalid choice: 'saf'"),
        (("evaluate", "m"), "the following arguments are required: PHOTOS"),
    ],
)
def test_arguments_that_make_no_sense_end_with_the_usage(arguments, said):
    code, out, err = in_process.safe_jax(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"usage: safe-jax {arguments[0]} ")
    assert said in err.splitlines()[-1]


def test_an_interrupted_command_says_so(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("safe_jax.commands.check.main", interrupted)
    code, out, err = in_process.safe_jax("check")
    assert (code, out) == (130, "")
    assert err == "interrupted: nothing was written; the same command begins again\n"


def test_want_of_memory_has_one_line(monkeypatch):
    def greedy(argv):
        np.empty(10**15)

    monkeypatch.setattr("safe_jax.commands.check.main", greedy)
    code, out, err = in_process.safe_jax("check")
    assert (code, out) == (1, "")
    assert err.startswith("error: the memory does not suffice (Unable to allocate 7.11 PiB")
    assert err.count("\n") == 1


def test_a_mistake_of_the_package_keeps_its_traceback(monkeypatch):
    def broken(argv):
        raise ValueError("no user's mistake")

    monkeypatch.setattr("safe_jax.commands.check.main", broken)
    with pytest.raises(ValueError, match="no user's mistake"):
        in_process.safe_jax("check")


def test_compiled_programs_are_kept_unless_the_environment_says_where(bench, tmp_path, monkeypatch):
    """In tests it does; nothing of a command stays behind in this process."""
    kept = {}
    monkeypatch.setattr(jax.config, "update", kept.__setitem__)
    logger = logging.getLogger("safe_jax")
    before = logger.handlers[:], logger.level, logger.propagate
    assert bench.safe_jax("predict", tmp_path, "1.jpg").code == 1
    assert kept == {}
    assert (logger.handlers, logger.level, logger.propagate) == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    bench.safe_jax("predict", tmp_path, "1.jpg", "--cache-dir", tmp_path)
    assert kept["jax_compilation_cache_dir"] == str(tmp_path / "compiled")
