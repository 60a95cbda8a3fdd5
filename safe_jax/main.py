"""The command.

python -m safe_jax.main --config configs/imagenet.py [--workdir DIR] [--config.knob=value]
"""

import logging
import pathlib
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from safe_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/DATASET-WEIGHTS if not given."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; knobs are set as --config.knob=value"
        )
    from safe_jax import experiment, report  # after the flags: a mistyped one is told at once

    config = CONFIG.value
    workdir = WORKDIR.value or f"runs/{config.dataset}-{pathlib.Path(config.weights).name}"
    _log_to_stderr()
    try:
        rows = experiment.run(config, pathlib.Path(workdir))
    except InputError as error:
        sys.exit(f"error: {error}")
    print(report.table(rows))
    print(f"rows: {workdir}/results.jsonl")


def _log_to_stderr():
    absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax tells a lot
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("safe_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
