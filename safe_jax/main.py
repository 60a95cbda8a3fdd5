"""The command.

python -m safe_jax.main --config configs/imagenet.py [--workdir DIR] [--config.knob=value]
"""

import logging
import pathlib
import re
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from safe_jax import experiment, report
from safe_jax.data import datasets
from safe_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/DATASET-WEIGHTS if not given."
)


def main(_):
    config = CONFIG.value
    workdir = WORKDIR.value or f"runs/{datasets.name(config)}-{pathlib.Path(config.weights).name}"
    workdir = pathlib.Path(workdir).expanduser()
    _log_to_stderr()
    try:
        print(report.table(experiment.run(config, workdir)))
        print(f"rows: {workdir}/results.jsonl")
        report.write([workdir], workdir / "report.html")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"report: {workdir}/report.html")


def _parse_flags(argv):
    """As absl does, but with one line for a mistake."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            raise flags.Error("--config is missing: name a file, such as configs/caltech101.py")
        CONFIG.value.lock()  # without this, a missing file is only noticed when a knob is read
        if len(rest) > 1:
            raise flags.Error(f"unexpected argument {rest[1]!r}; set knobs as --config.knob=value")
    except (AttributeError, KeyError) as error:  # how ml_collections refuses an unknown knob
        knob = re.search(r'instead of "(\w+)"|Key "(\w+)" does not|^\W*(\w+)\W*$', str(error))
        if not knob:
            raise
        near = re.search(r'Did you mean "(\w+)"', str(error))
        hint = f"did you mean config.{near[1]}?" if near else "configs/default.py has all"
        sys.exit(f"error: there is no config.{next(filter(None, knob.groups()))}: {hint}")
    except (flags.Error, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    return rest


def _log_to_stderr():
    absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax logs every save
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("safe_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
