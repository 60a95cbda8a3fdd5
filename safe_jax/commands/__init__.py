"""What `safe-jax COMMAND` does, a file each: arguments, what is printed, the exit code.
`main` picks the command and imports no other; a mistake of the user ends in one line.
"""

import contextlib
import difflib
import importlib
import importlib.metadata
import signal
import sys

from safe_jax.runtime import errors, signals
from safe_jax.runtime.errors import InputError

COMMANDS = {
    "fit": "labelled images to a classifier",
    "predict": "images to classes",
    "evaluate": "how good a classifier is on labelled images",
    "export": "a classifier for ONNX Runtime, for JAX alone, or for torch",
    "run": "an experiment: subsets, methods, a table and a report",
    "convert": "a torch checkpoint to weights, or back",
    "report": "the page of an experiment, or of several",
    "check": "what is there of a data set",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command that the arguments name; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"safe_jax {importlib.metadata.version('safe_jax')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMMANDS)} is expected"
        return _fail(f"there is no command {name!r}: {hint}")
    try:
        # An experiment on several hosts answers by itself.
        answer = contextlib.nullcontext() if name == "run" else signals.sigterm_raises()
        with answer:
            return importlib.import_module(f"safe_jax.commands.{name}").main(rest)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except OSError as error:
        return _fail(errors.of_system(error))
    except InputError as error:
        return _fail(str(error))
    except Exception as error:
        if not (reason := errors.of_memory(error)):
            raise
        return _fail(f"{reason}: end other programs, or take a machine that has more")
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted: nothing was written; the same command begins again\n")
        return signals.exit_code(error)


def _fail(message: str) -> int:
    # In a single write: threads of a library may be logging at the same time.
    sys.stderr.write(f"error: {message}\n")
    return 1


def _usage() -> str:
    lines = [f"  {name:10}{meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join(
        [
            "usage: safe-jax COMMAND ...",
            "",
            "Adapts CLIP to your own images with a few labelled images a class.",
            "",
            *lines,
            "",
            "safe-jax COMMAND --help has the arguments of a command, and an example.",
        ]
    )
