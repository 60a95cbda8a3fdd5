"""The lines of `results.jsonl`, on a disk or in a bucket: appended whole or not at all."""

import os

import filelock

from safe_jax.runtime import disk
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.paths import Path


class DiskFile:
    """Lines of a file on a disk, locked by this process."""

    def __init__(self, path: Path):
        # The operating system drops the lock with the process, however it ends.
        self._lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(
                f"another run is writing {path}: wait for it, or choose another --workdir"
            ) from None
        self._path = path
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        self._file.seek(0)
        *self.lines, cut_off = self._file.read().split(b"\n")
        if cut_off:  # by a kill
            self._file.truncate(sum(len(line) + 1 for line in self.lines))

    def append(self, line: bytes) -> None:
        before = self._file.seek(0, os.SEEK_END)
        row = line + b"\n"
        try:
            with disk.full_disk_told(self._path, "set another --workdir; the same command goes on"):
                while row:  # a disk that gets full takes a part
                    row = row[self._file.write(row) :]
                os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        self._file.close()
        self._lock.release()


class BucketObject:
    """Lines of an object in a bucket, which is rewritten for each: it cannot be appended to."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def append(self, line: bytes) -> None:
        self.lines.append(line)
        self.path.write_bytes(b"".join(line + b"\n" for line in self.lines))

    def close(self) -> None:
        pass
