"""The exception that a user is meant to read."""


class InputError(ValueError):
    """Something given to us does not work; the message says what, what was expected, what to do.

    `main` and the tools print the message alone and exit with 1. Anything else that is raised is
    a bug of ours and keeps its traceback.
    """


def listing(lines: list[str]) -> str:
    """All lines, indented, for the end of a message: whoever mends things needs every one."""
    return "".join(f"\n  {line}" for line in lines)
