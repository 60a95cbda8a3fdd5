"""What images are read from: a path on a disk, in a bucket or in a data set, or memory."""

import dataclasses
from typing import Any, Protocol

import PIL.Image


class Openable(Protocol):
    """A path, or anything that opens like a path; `str` gives its name in messages."""

    def open(self, mode: Any = ..., /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class InMemory:
    """An image that is decoded already; it takes the place of a path.

    Its name is a digest of its pixels, and tells it from others: Pillow's images have no hash.
    """

    image: PIL.Image.Image = dataclasses.field(compare=False)
    name: str

    def open(self, mode: str = "rb") -> Any:
        raise OSError(f"{self.name} is in no file")

    stat = open  # its name tells whether it changed

    def __str__(self) -> str:
        return self.name
