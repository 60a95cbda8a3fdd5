"""The exception that a user is meant to read."""

LISTED = 100  # lines of a list; the rest is counted


class InputError(ValueError):
    """Something given to us does not work; the message says what, what was expected, what to do.

    `main` and the tools print the message alone and exit with 1. Anything else that is raised is
    a bug of ours and keeps its traceback.
    """


def listing(lines: list[str]) -> str:
    """The lines, indented, for the end of a message."""
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in lines[:LISTED] + more)
