"""What several commands have in common: their parsers, logging, the cache of compiled programs."""

import argparse
import logging
import pathlib
import re
from typing import Any, TypeVar

from safe_jax.runtime import command_line, disk, paths, schema
from safe_jax.runtime.errors import InputError

ModelT = TypeVar("ModelT", bound=schema.Model)


def parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose `--help` ends with an example."""
    return argparse.ArgumentParser(
        prog=f"safe-jax {name}",
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-dir", metavar="DIR", default="~/.cache/safe_jax",
        help="downloads, banks, compiled programs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-compilation-cache", dest="compilation_cache", action="store_false",
        help="compile every program anew, and keep none for the next command",
    )  # fmt: skip


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=at_least_one, metavar="N", default=0,
        help="threads that decode images (default: one for each core)",
    )  # fmt: skip


def at_least_one(text: str) -> int:
    """A whole number above 0, for `argparse`."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, not {text}")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, for `argparse`."""
    (number,) = numbers(text.replace(",", " "))
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to 1 is expected, not {text}")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them, for `argparse`."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers are expected, as 0.1,0.01, not {text}") from None


def check(kind: type[ModelT], values: Any) -> ModelT:
    """As `schema.check`; a mistake is in an argument, which is named as it is typed."""
    try:
        return schema.check(kind, values, "--")
    except InputError as error:
        raise InputError(re.sub(r"^--\w+", _as_typed, str(error))) from None


def _as_typed(field: re.Match[str]) -> str:
    typed = field[0].replace("_", "-")
    return typed.removesuffix("s") if typed == "--templates" else typed  # one for each --template


def begin(args: argparse.Namespace) -> None:
    """Logs to standard error, and keeps compiled programs in the cache if they shall be kept."""
    command_line.log_to_stderr("", logging.INFO)
    cache_dir = paths.cache(args.cache_dir, "--cache-dir")
    if args.compilation_cache:
        from safe_jax.runtime import compiled  # loads JAX

        compiled.keep_in(cache_dir / "compiled")


def on_disk(given: str) -> pathlib.Path:
    """The path that an argument names. Raises `InputError` for a bucket."""
    if paths.is_remote(given):
        raise InputError(f"{given}: a path on a disk is expected")
    return pathlib.Path(given).expanduser()


def output_file(given: str, suffixes: tuple[str, ...]) -> pathlib.Path:
    """The file that an argument names, and whose folder is made.

    Raises `InputError` for another suffix, and where nothing can be written: before any work.
    """
    file = on_disk(given)
    if file.suffix.lower() not in suffixes:
        raise InputError(f"{given}: a file name with {' or '.join(suffixes)} is expected")
    if file.is_dir():
        raise InputError(f"{given} is a folder; a file name is expected")
    file.parent.mkdir(parents=True, exist_ok=True)
    disk.check_writable(file.parent)
    return file
