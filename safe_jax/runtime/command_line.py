"""Parses configs on the command line, where a mistake gets one line; and logs to standard error."""

import difflib
import logging
import pathlib
import re
import sys

from absl import flags

from safe_jax.runtime.errors import InputError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags, including `--config`, and returns the rest; a mistake exits with one line.

    A config may be a file, or one of the package's by its name.
    """
    try:
        rest = values(_with_files(argv))
        if values.config is not None:
            values.config.lock()  # otherwise a missing file is noticed only when a knob is read
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}; set knobs as --config.knob=value")
    except (AttributeError, KeyError) as error:  # how ml_collections refuses an unknown knob
        knob = re.search(r'instead of "(\w+)"|Key "(\w+)" does not|^\W*(\w+)\W*$', str(error))
        if not knob:
            raise
        near = re.search(r'Did you mean "(\w+)"', str(error))
        every = "python -m safe_jax.main --knobs lists all"  # other commands read configs, too
        hint = f"did you mean config.{near[1]}?" if near else every
        sys.exit(f"error: there is no config.{next(filter(None, knob.groups()))}: {hint}")
    except ImportError as error:
        sys.exit(
            f"error: {error}, which the config file imports: the package's configs are imported as "
            "`from safe_jax.configs import default`; your own have to be importable (PYTHONPATH)"
        )
    except (flags.Error, OSError) as error:
        # A config file raised it, and absl wrapped it.
        while isinstance(error.__context__, InputError):
            error = error.__context__
        sys.exit(f"error: {' '.join(str(error).split())}")
    return rest


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
        for path in map(pathlib.Path, (given, name)):
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise flags.Error(f"{path} is no file; a config file is expected")
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
