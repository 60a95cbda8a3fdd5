"""The exception whose message is written for the user."""


class InputError(ValueError):
    """An input cannot be used; the message says where, what is expected and what to do.

    `main` and the tools print only the message and exit with 1. Any other exception is a bug of
    this package and keeps its traceback.
    """


def listing(lines: list[str]) -> str:
    """All lines, indented, for the end of a message; none is left out, as all need mending."""
    return "".join(f"\n  {line}" for line in lines)
