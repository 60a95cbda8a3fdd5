"""Errors of the system name the file, what is wrong, and what to do."""

import errno
import os

import pytest

from safe_jax.runtime import errors


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "/a: no space left on device; make room on that disk, or name a folder"),
        (errno.EACCES, "/a: permission denied; change its permissions, or name another"),
        (errno.EROFS, "/a: read-only file system; name a place that can be written to"),
        (errno.EISDIR, "/a: is a directory; a file is expected where a folder is: name another"),
        (errno.ENOTDIR, "/a: not a directory; a folder is expected where a file is: name another"),
        (errno.EIO, "/a: input/output error"),
    ],
)
def test_an_error_of_the_system_has_one_line(number, line):
    assert errors.of_system(OSError(number, os.strerror(number), "/a")).startswith(line)


def test_errors_without_a_file_or_a_number_keep_their_words():
    assert errors.of_system(OSError("the archive is cut short")) == "the archive is cut short"
    lines = errors.of_system(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert lines == "too many open files; allow more open files (`ulimit -n`)"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "the memory does not suffice"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 7 bytes"),
            "the memory does not suffice (RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes)",
        ),
        (RuntimeError("INTERNAL: something else"), None),
        (KeyError("memory"), None),
    ],
)
def test_want_of_memory_is_told_from_other_errors(error, line):
    assert errors.of_memory(error) == line
