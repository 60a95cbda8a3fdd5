"""`safe-jax run`: an experiment, the same as `python -m safe_jax.main`."""

import sys

from absl import flags

from safe_jax import main as experiment
from safe_jax.runtime import command_line

EXAMPLE = "example:\n  safe-jax run --config configs/caltech101.py --config.data_root=DATA"


def main(argv: list[str]) -> int:
    """Runs the experiment that the arguments describe; returns the exit code."""
    if {"-h", "--help"} & set(argv):
        print(f"usage: safe-jax run {experiment.USAGE}\n\n{flags.FLAGS.module_help(experiment)}")
        print(f"\n{EXAMPLE}")
        return 0
    sys.argv = ["safe-jax run", *argv]  # ml_collections looks there for knobs
    experiment.main(command_line.parse(sys.argv))
    return 0
