"""Parses configs on the command line, where a mistake gets one line; and logs to standard error."""

import logging
import re
import sys

from absl import flags

from safe_jax.runtime.errors import InputError


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags, including `--config`, and returns the rest; a mistake exits with one line."""
    try:
        rest = values(argv)
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
            f"error: {error}, which the config file imports: start the command where the folder "
            "configs/ is, or make what it imports importable (PYTHONPATH)"
        )
    except (flags.Error, OSError) as error:
        # A config file raised it, and absl wrapped it.
        while isinstance(error.__context__, InputError):
            error = error.__context__
        sys.exit(f"error: {' '.join(str(error).split())}")
    return rest


def log_to_stderr(prefix: str, level: int) -> None:
    """Has the package's log lines from `level` on printed, each with the time and a prefix."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logger = logging.getLogger("safe_jax")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
