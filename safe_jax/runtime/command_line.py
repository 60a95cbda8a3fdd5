"""Parses configs on the command line, where a mistake gets one line; and logs to standard error."""

import difflib
import logging
import pathlib
import re
import sys

from absl import flags

from safe_jax.runtime import config_file
from safe_jax.runtime.errors import InputError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags, including `--config`, and returns the rest; a mistake exits with one line.

    A config may be a file, or one of the package's by its name.
    """
    values["config"].parser = config_file.Parser("config")
    try:
        rest = values(_with_files(argv))
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}; set knobs as --config.knob=value")
    except flags.Error as error:
        # Of a mistake in a config file absl makes its own kind of error.
        of_file = isinstance(error.__context__, InputError)
        text = " ".join(str(error.__context__ if of_file else error).split())
        for of_python, expected in () if of_file else _EXPECTED.items():
            text = re.sub(of_python, expected, text)
        sys.exit(f"error: {text}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of a knob that is set
        text = config_file.unknown_knob(error) or f"{error}: set knobs as --config.knob=value"
        sys.exit(f"error: {text}")
    return rest


# What parsers of flags say of a text, and what we say.
_EXPECTED = {
    r"invalid literal for int\(\).*": "a whole number is expected",
    r"could not convert string to float.*": "a number is expected",
    r"\('Non-boolean argument.*": "True or False is expected",
}


def _with_files(argv: list[str]) -> list[str]:
    """The arguments, with the file of a config in the place of its name."""
    found = list(argv)
    for at, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config") and equals:
            found[at] = f"{flag}={_file_of(value)}"
        elif at and argv[at - 1] in ("--config", "-config"):
            found[at] = _file_of(argument)
    return found


def _file_of(given: str) -> str:
    """The file of a config of the package; a path, as it is. Raises `flags.Error`.

    Either may be followed by `:` and an argument of the config.
    """
    name, colon, argument = given.partition(":")
    is_name = re.fullmatch(r"\w+", name) and not pathlib.Path(name).is_file()
    if not is_name:
        return given
    names = sorted(file.stem for file in CONFIGS.glob("[!_]*.py"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}, or a file"
        raise flags.Error(f"there is no config {name!r}: {hint}")
    return f"{CONFIGS / name}.py{colon}{argument}"


def log_to_stderr(prefix: str, level: int) -> None:
    """Has the package's log lines from `level` on printed, each with the time and a prefix."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logger = logging.getLogger("safe_jax")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
