"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something given to us is wrong; the message says what, what was expected and what to do.

    `main` and the tools print the message alone and exit with 1. Anything else that is raised is
    a bug of ours and keeps its traceback.
    """
