"""Loads the config that a file's `get_config` makes; whatever is wrong with the file gets one line.

A config file is a user's Python code: it may raise anything, or end the interpreter.
"""

import importlib.util
import pathlib
import re
import sys
import traceback
import types
from typing import Any

import ml_collections
from ml_collections.config_flags import config_flags

from safe_jax.runtime.errors import InputError


class Parser(config_flags.ConfigFileFlagParser):
    """The parser of `--config=FILE` or `FILE:ARGUMENT`. Raises `InputError` alone."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        name, colon, argument = path.partition(":")
        if not name:
            raise InputError("--config is empty: name a file, such as configs/caltech101.py")
        file = pathlib.Path(name)
        code = _compiled(file)
        module = types.ModuleType(f"{self.name}_config")
        module.__file__ = name
        sys.modules[module.__name__] = module  # data classes of the file look there
        try:
            exec(code, module.__dict__)
            make = module.__dict__.get("get_config")
            if not callable(make):
                raise InputError(f"{file} has no function get_config")
            config: Any = make(argument) if colon else make()
            if isinstance(config, ml_collections.ConfigDict):
                return config.lock()  # raises for a placeholder that has to be filled
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(_mistake(error, file)) from error
        raise InputError(
            f"{file}: get_config returns {_article(config)}; a ConfigDict is expected: end it with "
            "`return config`"
        )


def _compiled(file: pathlib.Path) -> types.CodeType:
    if file.exists() and not file.is_file():
        raise InputError(f"--config={file} is no file: name the .py file of a config")
    try:
        return compile(importlib.util.decode_source(file.read_bytes()), str(file), "exec")
    except OSError as error:
        raise InputError(f"config file {file}: {error.strerror}") from None
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"{file}{place} is not Python: {error.msg}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is not Python: its text is not UTF-8") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL; thousands of brackets
        raise InputError(f"{file} is not Python: {error or type(error).__name__}") from None


def _article(config: Any) -> str:
    return "None" if config is None else f"a {type(config).__name__}"


def _mistake(error: BaseException, file: pathlib.Path) -> str:
    if knob := unknown_knob(error):
        return knob
    if isinstance(error, ImportError):
        return (
            f"{error}, which the config file imports: the package's configs are imported as "
            "`from safe_jax.configs import default`; your own have to be importable (PYTHONPATH)"
        )
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    place = f"{file}, line {lines[-1]}" if lines else str(file)
    if isinstance(error, SystemExit):
        return f"{place} ends the program; get_config is to return a config"
    text = " ".join(str(error).split())
    return f"{place}: {type(error).__name__}" + (f": {text}" if text else "")


def unknown_knob(error: BaseException) -> str | None:
    """What to say where ml_collections refused a knob that a config does not have."""
    if not isinstance(error, AttributeError | KeyError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    package = str(pathlib.Path(ml_collections.__file__).parent)
    if not frames[-1].filename.startswith(package):
        return None  # a mistake in other code
    knob = re.search(r'instead of "(\w+)"|Key "(\w+)" does not|^\W*(\w+)\W*$', str(error))
    if not knob:
        return None
    near = re.search(r'Did you mean "(\w+)"', str(error))
    every = "python -m safe_jax.main --knobs lists all"  # other commands read configs, too
    hint = f"did you mean config.{near[1]}?" if near else every
    return f"there is no config.{next(filter(None, knob.groups()))}: {hint}"
