"""The command that makes the page of a run anew, or one page of several runs."""

import argparse
import sys

from safe_jax import report
from safe_jax.runtime import errors, paths
from safe_jax.runtime.errors import InputError


def main(argv: list[str] | None = None, prog: str = "python -m safe_jax.report") -> int:
    """Writes the page that the arguments ask for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Makes the HTML report of a run anew, or compares several runs in one.",
        epilog=f"example: {prog} runs/caltech101-RN50",
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", help="the --workdir of a run")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page; by default DIR/report.html, or comparison.html of several DIRs",
    )
    args = parser.parse_args(argv)
    try:
        directories = [paths.parse(directory) for directory in args.directories]
        default = directories[0] / "report.html" if len(directories) == 1 else "comparison.html"
        output = args.output or default
        report.write(directories, paths.parse(output))
    except (InputError, OSError) as error:
        line = errors.of_system(error) if isinstance(error, OSError) else str(error)
        print(f"error: {line}", file=sys.stderr)
        return 1
    print(f"report: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
