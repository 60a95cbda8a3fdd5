"""The command.

python -m safe_jax.main --config configs/imagenet.py [--workdir DIR] [--config.knob=value]
"""

import logging
import pathlib
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from safe_jax import command_line, experiment, report
from safe_jax.data import datasets
from safe_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/DATASET-WEIGHTS if not given."
)


def main(_):
    config = CONFIG.value
    if config is None:
        sys.exit("error: --config is missing: name a file, such as configs/caltech101.py")
    name = f"{datasets.name(config)}-{pathlib.Path(config.weights).name}".replace(",", "-")
    workdir = pathlib.Path(WORKDIR.value or f"runs/{name}").expanduser()
    _log_to_stderr()
    try:
        print(report.tables(experiment.run(config, workdir)))
        print(f"rows: {workdir}/results.jsonl")
        report.write([workdir], workdir / "report.html")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"report: {workdir}/report.html")


def _log_to_stderr():
    absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax logs every save
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("safe_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
