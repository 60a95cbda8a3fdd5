"""Configs on the command line, with one line for a mistake."""

import re
import sys

from absl import flags

from safe_jax.runtime.errors import InputError


def parse(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags, `--config` among them, as absl does; exits where one is wrong."""
    try:
        rest = values(argv)
        if values.config is not None:
            values.config.lock()  # without this, a missing file is only noticed when a knob is read
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}; set knobs as --config.knob=value")
    except (AttributeError, KeyError) as error:  # how ml_collections refuses an unknown knob
        knob = re.search(r'instead of "(\w+)"|Key "(\w+)" does not|^\W*(\w+)\W*$', str(error))
        if not knob:
            raise
        near = re.search(r'Did you mean "(\w+)"', str(error))
        hint = f"did you mean config.{near[1]}?" if near else "configs/default.py has all"
        sys.exit(f"error: there is no config.{next(filter(None, knob.groups()))}: {hint}")
    except ImportError as error:
        sys.exit(
            f"error: {error}, which the config file imports: start the command where the folder "
            "configs/ is, or make what it imports importable (PYTHONPATH)"
        )
    except (flags.Error, OSError) as error:
        while isinstance(error.__context__, InputError):  # a config file's own, wrapped
            error = error.__context__
        sys.exit(f"error: {' '.join(str(error).split())}")
    return rest
