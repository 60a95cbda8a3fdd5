"""Pixels to dense maps: the step that fills a bank, or that tuning on fresh crops takes anew.

Axes: b images, h rows, w columns, c channels, d channels of the joint space.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
from flax import nnx
from pydantic import AfterValidator

from safe_jax.backbones.contract import ImageTower
from safe_jax.data import images
from safe_jax.data.preprocessing import Preprocessing, normalize
from safe_jax.runtime import devices, schema
from safe_jax.runtime.schema import Bounds, ListOrTuple, knob

Workers = Annotated[int, AfterValidator(Bounds(ge=0, le=1024))]


def _is_crop_scale(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("0 < low <= high <= 1 is expected")
    return scale


class CropSettings(schema.Model):
    """How images are cropped and decoded."""

    crop_scale: Annotated[tuple[float, float], AfterValidator(_is_crop_scale), ListOrTuple] = knob(
        (0.8, 1.0), "least and greatest area of a random crop, as parts of the image's"
    )
    workers: Workers = knob(0, "threads that decode; 0: one for each core")


def fold(model: ImageTower, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, Any]:
    """`graphdef` and `params` for `extract_step`; of equal models equal, with texts or without.

    NumPy folds: a program that is run once takes far longer to compile.
    """
    graphdef, params = nnx.split(model.image_tower())
    folded = nnx.merge(graphdef, jax.tree.map(np.asarray, params)).folded()
    graphdef, params = nnx.split(folded)
    return graphdef, devices.replicate(mesh, params)


@partial(jax.jit, static_argnames=("graphdef", "dtype"))
def extract_step(
    graphdef: nnx.GraphDef, params: Any, pixels_bhwc: jax.Array, dtype: np.dtype
) -> tuple[jax.Array, jax.Array]:
    """8-bit pixels to dense maps of `dtype`, and to the original pool's features of those maps.

    `graphdef` and `params` are those of a folded model, on every device.
    """
    model = nnx.merge(graphdef, params)
    images_bhwc = normalize(pixels_bhwc, model.config.preprocessing)
    dense_bhwc = model.dense_features(images_bhwc).astype(dtype)
    return dense_bhwc, model.attnpool(dense_bhwc)


def load_local(
    crop_batches: Iterable[Sequence[images.Crop]], local_rows: np.ndarray,
    preprocessing: Preprocessing, settings: CropSettings,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The pixels of this host's rows of each batch of crops; rows that a batch lacks are 0."""
    kept, decoded = itertools.tee(
        [batch[row] for row in local_rows if row < len(batch)] for batch in crop_batches
    )
    pixels = images.load_batches(
        filter(None, decoded), preprocessing, settings.crop_scale, settings.workers
    )
    size = preprocessing.size
    for crops in kept:
        empty = np.zeros((0, size, size, 3), np.uint8)
        yield devices.pad_to(next(pixels) if crops else empty, len(local_rows))
