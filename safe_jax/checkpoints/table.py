"""Tables between the names of a torch checkpoint and the paths of our leaves.

Modules keep the checkpoint's names, so most rows rename a leaf and transpose a kernel. A table is
read in both directions.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from safe_jax.runtime.errors import InputError


class Layout(NamedTuple):
    """How a tensor's axes are arranged: functions from torch's arrangement to ours and back."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """Where a leaf comes from: a tensor's name, its layout, and which third of its rows it is.

    Queries, keys and values lie one upon the other in some checkpoints; elsewhere a leaf is the
    whole tensor, and `third` is None.
    """

    name: str
    layout: Layout
    third: int | None = None

    def of(self, tensor: np.ndarray) -> np.ndarray:
        """The part of the tensor that the leaf is, in torch's arrangement."""
        return tensor if self.third is None else np.split(tensor, 3)[self.third]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # torch has (out, in)
CONV = Layout(  # torch has (out, in, h, w)
    lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)

# The kinds of modules: torch's leaf, our leaf, layout.
Kind = tuple[tuple[str, str, Layout], ...]
DENSE: Kind = (("weight", "kernel", LINEAR), ("bias", "bias", SAME))
CONVOLUTION: Kind = (("weight", "kernel", CONV),)
LAYER_NORM: Kind = (("weight", "scale", SAME), ("bias", "bias", SAME))
LEAF: Kind = (("", "", SAME),)

# Torch's name, our path, kind, and which third; # stands for a number, the same on both sides.
Row = tuple[str, str, Kind] | tuple[str, str, Kind, int]


def places(rows: Sequence[Row], leaf_paths: Iterable[str]) -> dict[str, Place]:
    """The place of each leaf in a checkpoint, by path."""
    leaf_rows = list(_leaf_rows(rows))
    found = {}
    for path in leaf_paths:
        for pattern, template, layout, third in leaf_rows:
            if match := pattern.fullmatch(path):
                numbers = iter(match.groups())
                name = re.sub("#", lambda _, n=numbers: next(n), template)
                found[path] = Place(name, layout, third)
                break
        else:
            raise AssertionError(f"the table has no row for {path}")
    return found


def _leaf_rows(rows: Sequence[Row]) -> Iterator[tuple[re.Pattern, str, Layout, int | None]]:
    """A table by leaf: the pattern of our path, the template of torch's name, layout, third."""
    for torch_module, module_path, kind, *rest in rows:
        for torch_leaf, leaf, layout in kind:
            path = "/".join(filter(None, (module_path, leaf)))
            # A tensor of three parts is not a module's: its name goes on after an underscore.
            joint = "_" if rest else "."
            template = joint.join(filter(None, (torch_module, torch_leaf)))
            third = rest[0] if rest else None
            yield re.compile(path.replace("#", r"(\d+)")), template, layout, third


def size(tensors: Mapping[str, np.ndarray], kind: str, *alternatives: tuple[str, int]) -> int:
    """The length of an axis of a tensor: of the first alternative `(name, axis)` that is there.

    Raises `InputError`, which says that this is not a `kind`, where none is.
    """
    for name, axis in alternatives:
        if name in tensors and tensors[name].ndim > axis:
            return tensors[name].shape[axis]
    names = " nor ".join(name for name, _ in alternatives)
    raise InputError(f"not a {kind}: it has neither {names}, which tell its shape")


def count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many blocks match; at least one, which is then listed as missing.

    Blocks with higher numbers than there are blocks are listed as unexpected.
    """
    numbers = {match[1] for match in map(re.compile(pattern).match, tensors) if match}
    return max(1, len(numbers))
