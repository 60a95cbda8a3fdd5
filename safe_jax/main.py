"""The command.

python -m safe_jax.main --config configs/imagenet.py [--workdir DIR] [--config.knob=value]

On several hosts, start it on each: with --distributed where the cluster knows its hosts (a slice of
Cloud TPU, Slurm), else with --coordinator, --processes and --process_id. --knobs lists every knob.
"""

import contextlib
import io
import logging
import sys

import absl.logging
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from safe_jax import report
from safe_jax.data import datasets
from safe_jax.experiment import knobs
from safe_jax.experiment import run as experiment
from safe_jax.runtime import command_line, compiled, errors, hosts, paths, signals
from safe_jax.runtime.errors import InputError

USAGE = "--config FILE [--workdir DIR] [--config.knob=value ...]"
CONFIG = config_flags.DEFINE_config_file("config", None, "What to run.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/DATASET-WEIGHTS if not given."
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts, which the cluster knows.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several hosts.")
PROCESSES = flags.DEFINE_integer(
    "processes", None, "How many hosts there are.", lower_bound=1, upper_bound=65_536
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this is; 0 is the first.", lower_bound=0, upper_bound=65_535
)
HOST_TIMEOUT = flags.DEFINE_integer(
    "host_timeout", 60, "Seconds after which a silent host is given up.",
    lower_bound=1, upper_bound=86_400,
)  # fmt: skip


KNOBS = flags.DEFINE_bool("knobs", False, "Print every knob of a config with its default, and end.")


def main(_: list[str]) -> None:
    if KNOBS.value:
        print(knobs.help_text())
        return
    config = CONFIG.value
    if config is None:
        sys.exit("error: --config is missing: name a file, such as configs/caltech101.py")
    absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax logs every save
    cluster = hosts.ClusterFlags(
        DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS_ID.value, HOST_TIMEOUT.value
    )
    try:
        # Of several hosts one that SIGTERM ends has to die, so that the others notice.
        answer = signals.sigterm_raises() if cluster.is_single() else contextlib.nullcontext()
        with answer, hosts.cluster(cluster):
            level = logging.INFO if hosts.is_first() else logging.ERROR
            command_line.log_to_stderr(hosts.prefix(), level)
            _run(config)
    except OSError as error:
        sys.exit(f"error: {hosts.prefix()}{errors.of_system(error)}")
    except InputError as error:
        sys.exit(f"error: {hosts.prefix()}{error}")
    except Exception as error:
        if not (reason := errors.of_memory(error)):
            raise
        knobs_of_memory = "trunk_batch_size, batch_size, eval_batch_size or population"
        sys.exit(f"error: {hosts.prefix()}{reason}: lower config.{knobs_of_memory}")
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted: the same command goes on\n")
        sys.exit(signals.exit_code(error))


def _run(config: ConfigDict) -> None:
    checked = knobs.read(config)
    name = f"{datasets.name(checked)}-{paths.parse(checked.weights).name}".replace(",", "-")
    workdir = paths.parse(WORKDIR.value or f"runs/{name}")
    if checked.compilation_cache:
        compiled.keep_in(paths.cache(checked.cache_dir) / "compiled")
    rows = experiment.run(config, workdir)
    if hosts.is_first():
        report.write([workdir], workdir / "report.html")
        # A terminal may lack a character: that of "plus or minus", or one of a class's name.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        print(report.tables(rows))
        print(f"rows: {workdir}/results.jsonl")
        print(f"report: {workdir}/report.html")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
