"""Where the paths of a list lead: under the image folder, however a program wrote them."""

import collections
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable

from safe_jax.runtime import files, paths
from safe_jax.runtime.errors import InputError, listing
from safe_jax.runtime.paths import Path

_PLAIN = re.compile(r"(?!/|\w+:|[^\\]*\.\.)[^\\]*", re.DOTALL)  # most paths, which stay as they are


def under(image_dir: Path, given: Iterable[str], file: object) -> dict[str, str]:
    """The path under `image_dir` of each path that `file` lists.

    Backslashes separate folders where the image is there under `/`. A list may come from elsewhere,
    so a path that leads out of the folder is refused, be it absolute or by `..`; a link in the
    folder is its owner's, and is followed. Raises `InputError` naming all that lead out.
    """
    placed = {path: path for path in given}
    odd = [path for path in placed if not _PLAIN.fullmatch(path)]
    outside = []
    for path in odd:
        inside = _inside(image_dir, path)
        if inside is None:
            outside.append(path)
        else:
            placed[path] = inside
    if outside:
        raise InputError(
            f"{file}: {len(outside)} paths lead out of the folder of the images, {image_dir}; "
            "name one that holds them all with config.image_dir, or --image-dir (which may be /):"
            + listing(outside)
        )
    return placed


def _inside(image_dir: Path, path: str) -> str | None:
    """A path under the folder, or None where it leads out, read with either separator."""
    slashed = path.replace("\\", "/")
    if _leads_out(image_dir, slashed):
        return None
    if slashed != path and not files.exists(image_dir / path):
        path = slashed if files.exists(image_dir / slashed) else path
    if not posixpath.isabs(path) and ".." not in path.split("/"):
        return path
    return _relative(image_dir, path)


def _leads_out(image_dir: Path, path: str) -> bool:
    if re.match(r"[A-Za-z]:/|\w+://", path):  # a drive, a bucket
        return True
    return _relative(image_dir, path) is None


def _relative(image_dir: Path, path: str) -> str | None:
    """A path without `..`, relative to the folder; None where it is not below it."""
    if not posixpath.isabs(path):
        plain = posixpath.normpath(path)
        return None if plain == ".." or plain.startswith("../") else plain
    if paths.is_remote(image_dir):
        return None
    plain = pathlib.PurePath(os.path.normpath(path))
    for root in (os.path.abspath(image_dir), paths.absolute(image_dir)):
        if plain.is_relative_to(root):
            return str(plain.relative_to(root))
    return None


def twice(given: Iterable[str]) -> list[str]:
    """Paths of which there are several, also where they are spelled in several ways."""
    count = collections.Counter(posixpath.normpath(path.replace("\\", "/")) for path in given)
    return sorted(path for path, n in count.items() if n > 1)
