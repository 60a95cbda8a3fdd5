"""The exception whose message is written for the user, and what to say of the system's errors."""

import errno

_REMEDIES = {
    errno.ENOSPC: "make room on that disk, or name a folder on another",
    errno.EDQUOT: "make room on that disk, or name a folder on another",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name a place that can be written to",
    errno.EEXIST: "move it away, or name another",
    errno.ENOTDIR: "a folder is expected where a file is: name another",
    errno.EISDIR: "a file is expected where a folder is: name another",
    errno.ENOENT: "name one that is there",
    errno.ELOOP: "the link leads to itself: remove it, or name another",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
}


class InputError(ValueError):
    """An input cannot be used; the message says where, what is expected and what to do.

    `main` and the tools print only the message and exit with 1. Any other exception is a bug of
    this package and keeps its traceback.
    """


def of_system(error: OSError) -> str:
    """A line for an error of the system: which file, what is wrong, and what to do."""
    if not error.strerror:
        return str(error)
    file = "" if error.filename is None else f"{error.filename}: "
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{file}{error.strerror.lower()}" + (f"; {remedy}" if remedy else "")


def of_memory(error: Exception) -> str | None:
    """A line for an error that is for want of memory, of this machine or of a device; else None."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not text.startswith("RESOURCE_EXHAUSTED"):
        return None
    reason = f" ({text[:120]})" if text else ""
    return f"the memory does not suffice{reason}"


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{plural if count != 1 else ''}"


def listing(lines: list[str]) -> str:
    """All lines, indented, for the end of a message; none is left out, as all need mending."""
    return "".join(f"\n  {line}" for line in lines)
