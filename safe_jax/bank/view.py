"""Images of a bank in the form that a method takes them.

Axes: n images, v views, r rows of the arrays, b images of a batch, k classes, h rows and w columns
of cells, c channels, d channels of the joint space.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from safe_jax.bank import batches
from safe_jax.bank.row_file import RowFile
from safe_jax.data.records import Record
from safe_jax.runtime import devices

Array = np.ndarray | RowFile


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Some of the images whose features lie in `arrays`, with their labels.

    Row `image * views + view` of each array is of a view of an image; view 0 is the centre crop.
    The arrays are named as batches have them; those of a bank are `dense_bhwc`, `(r, h, w, c)`, on
    the disk, and `original_bd`, `(r, d)` float32, features of the original pool, not normalised.

    `key` identifies the arrays: views with equal keys have equal arrays. `paths` are those
    of the arrays' images, `image_n` the images that are seen here and `label_n` their labels.
    `among_k` are the classes allowed as answers, bool; None allows all.
    """

    key: str
    arrays: Mapping[str, Array]
    views: int
    image_n: np.ndarray
    label_n: np.ndarray | None = None
    among_k: np.ndarray | None = None
    paths: Sequence[str] = ()

    @classmethod
    def of(cls, key: str, arrays: Mapping[str, Array], label_n: np.ndarray) -> "View":
        """All rows of arrays that hold one view of each image."""
        return cls(key, arrays, 1, np.arange(len(label_n)), label_n)

    def __len__(self) -> int:
        return len(self.image_n)

    @property
    def labels(self) -> np.ndarray:
        """`label_n` of a view that has labels."""
        if self.label_n is None:
            raise ValueError("this view has no labels: select records")
        return self.label_n

    @property
    def row_nv(self) -> np.ndarray:
        """Where every view of every image is, `(n, v)`."""
        return self.image_n[:, None] * self.views + np.arange(self.views)

    @functools.cached_property
    def _image_of_path(self) -> dict[str, int]:
        return {path: image for image, path in enumerate(self.paths)}

    def select(self, records: Sequence[Record], classes: Sequence[int] | None = None) -> "View":
        """The images of `records`, in their order, with their labels.

        Args:
            classes: where a record's label counts classes of another set, these as labels here.
        """
        image_n = np.array([self._image_of_path[record.path] for record in records], int)
        label_n = np.array([record.label for record in records], int)
        if classes is not None:
            label_n = np.array(classes)[label_n]
        return dataclasses.replace(self, image_n=image_n, label_n=label_n)

    def only(self, names: Sequence[str]) -> "View":
        """The same images with these arrays alone."""
        arrays = {name: self.arrays[name] for name in names}
        return dataclasses.replace(self, arrays=arrays, key=f"{self.key} {' '.join(names)}")

    def compute(
        self, key: str, functions: Mapping[str, Callable], batch_size: int,
        mesh: jax.sharding.Mesh,
    ) -> "View":  # fmt: skip
        """The same images, with arrays computed from the dense maps of every view.

        The original pool's features are kept beside them.

        Args:
            key: identifies the functions.
            functions: by the name of the array that each makes of `(b, h, w, c)` maps.
        """
        row_n = self.row_nv.ravel()
        every_view = dataclasses.replace(self, views=1, image_n=row_n, label_n=np.zeros_like(row_n))
        parts = {name: [] for name in functions}
        for batch in batches.in_order(every_view, batch_size, mesh):
            counts_b = devices.fetch(batch["mask_b"]) > 0
            for name, function in functions.items():
                parts[name].append(devices.fetch(function(batch["dense_bhwc"]))[counts_b])
        arrays: dict[str, Array] = {name: np.concatenate(part) for name, part in parts.items()}
        arrays["original_bd"] = self.arrays["original_bd"][row_n]
        return dataclasses.replace(
            self, key=f"{self.key} {key}", arrays=arrays, image_n=np.arange(len(self)), paths=()
        )

    # What a tuning asks of the images that it trains on; see `tuning.fit.TrainImages`.

    @property
    def count(self) -> int:
        return len(self)

    def batches(
        self, plan: batches.Plan, mesh: jax.sharding.Mesh, first_step: int = 0
    ) -> Iterator[batches.Batch]:
        """The planned batches, from `first_step` on."""
        return batches.from_view(self, plan, mesh, first_step)
