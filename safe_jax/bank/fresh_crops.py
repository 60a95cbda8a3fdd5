"""Training images that no bank holds: new random crops go through the trunk in every step.

Axes: b images of a batch, h rows and w columns of cells, c channels, d channels of the joint space.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from safe_jax.backbones.contract import Backbone
from safe_jax.bank import batches, extraction
from safe_jax.bank.batches import PAD
from safe_jax.bank.store import BankSettings
from safe_jax.data import images
from safe_jax.data.records import Record
from safe_jax.runtime import devices


@dataclasses.dataclass(frozen=True, eq=False)
class FreshCrops:
    """In place of a `View` in a tuning. A crop is drawn from its image's path, seed and step."""

    model: Backbone
    image_dir: Any  # a folder on a disk or in a bucket, or a `tfds.Prepared`
    records: Sequence[Record]
    seed: int
    settings: BankSettings
    views: int = 1

    @property
    def count(self) -> int:
        return len(self.records)

    def batches(
        self, plan: batches.Plan, mesh: jax.sharding.Mesh, first_step: int = 0
    ) -> Iterator[batches.Batch]:
        """The planned batches, from `first_step` on; their views are not looked at.

        The dense maps are rounded as a bank's are, so the two ways differ in the crops alone.
        """
        label_n = np.array([record.label for record in self.records])
        graphdef, params = extraction.fold(self.model, mesh)
        batch_size = plan.image_sb.shape[1]
        crops = (self._crops(plan, step) for step in range(first_step, plan.steps))
        local_rows = devices.own_rows(mesh, batch_size)
        preprocessing = self.model.config.preprocessing
        pixels = extraction.load_local(crops, local_rows, preprocessing, self.settings)
        for image_b, pixels_bhwc in zip(plan.image_sb[first_step:], pixels, strict=True):
            dense_bhwc, original_bd = extraction.extract_step(
                graphdef,
                params,
                devices.shard_own(mesh, pixels_bhwc, batch_size),
                jnp.dtype(self.settings.bank_dtype),
            )
            yield {
                "dense_bhwc": dense_bhwc,
                "original_bd": original_bd,
                **devices.shard(mesh, batches.labels(label_n, image_b)),
            }

    def _crops(self, plan, step):
        paths = [self.records[image].path for image in plan.image_sb[step] if image != PAD]
        return [images.Crop(self.image_dir / path, f"{path} {self.seed} {step}") for path in paths]
