"""A stream of images to a stream of answers: decoding and computing overlap, and memory is bounded.

Axes: n images of a batch, h rows and w columns of cells, k classes.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.data import images
from safe_jax.data.openable import Openable
from safe_jax.runtime import devices

# Images a device at a time. A batch is as large as in extraction, so that a bank and a prediction
# have the same bits; where there are fewer images in all, a smaller one spares padding.
WIDTHS = 1, 8, 32


class Source(NamedTuple):
    """An image's name, for people, and what opens it."""

    name: str
    image: Openable


class Scored(NamedTuple):
    """A batch of images: logits `(n, k)`, and None or the reason why an image cannot be read.

    The logits of an image that cannot be read are NaN. `attention` has maps `(n, h, w)` by pool,
    if they were asked for.
    """

    sources: Sequence[Source]
    reasons: Sequence[str | None]
    logits_nk: np.ndarray
    attention: dict[str, np.ndarray]

    def probabilities(self, temperature: float) -> np.ndarray:
        """`(n, k)`, with float64's precision."""
        return scipy.special.softmax(self.logits_nk.astype(np.float64) / temperature, axis=1)


def score(
    classifier: ImageClassifier, sources: Iterable[Source], count: int | None = None,
    workers: int | None = None, with_attention: bool = False,
) -> Iterator[Scored]:  # fmt: skip
    """Classifies images in their order.

    Args:
        count: how many there are, if that is known: fewer than a batch take a smaller one.
        workers: threads that decode; by default one for each core.
        with_attention: whether maps of attention are computed too.
    """
    mesh = classifier.mesh
    fits = (width for width in WIDTHS if count is not None and count <= width * mesh.size)
    size = next(fits, WIDTHS[-1]) * mesh.size
    kept, decoded = itertools.tee(_batches(iter(sources), size))
    crops = ([images.Crop(source.image) for source in batch] for batch in decoded)
    before = None
    for batch, (pixels_bhwc, reasons) in zip(
        kept,
        images.load_readable(crops, classifier.preprocessing, workers or os.cpu_count() or 1),
        strict=True,
    ):
        # A device works on this batch while the one before is fetched and used.
        pixels_bhwc = devices.shard(mesh, devices.pad_to(pixels_bhwc, size))
        dense_bhwc, original_bd = classifier.maps(pixels_bhwc)
        logits_bk = classifier.logits_of_maps(dense_bhwc, original_bd)
        maps = classifier.attention(dense_bhwc) if with_attention else {}
        if before:
            yield _fetched(*before)
        before = batch, reasons, logits_bk, maps
    if before:
        yield _fetched(*before)


def _batches(sources, size):
    while batch := list(itertools.islice(sources, size)):
        yield batch


def _fetched(batch, reasons, logits_bk, maps) -> Scored:
    n = len(batch)
    logits_nk = np.array(devices.fetch(logits_bk)[:n])
    logits_nk[[reason is not None for reason in reasons]] = np.nan
    return Scored(batch, reasons, logits_nk, {k: devices.fetch(x)[:n] for k, x in maps.items()})
