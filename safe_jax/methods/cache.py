"""A cache of support images beside a classifier, as Tip-Adapter has it (arXiv 2207.09519).

    logits = s f W^T + weight exp(-sharpness (1 - f K^T)) V

with unit features f, one unit key (a row of K) and a one-hot value (a row of V) for each support
image; weight and sharpness are the authors' alpha and beta, and `a` and `b` in configs and rows. A
product with one-hot values is a sum over each class's keys, so keys are kept by class: V is never
formed, and with 16 shots of 1000 classes the sum is a thousandth of the product.

Axes: b images, k classes, s slots of a class for support images, d channels of the joint space.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator

from safe_jax.methods.contract import Grid, Knobs, SelectionSettings
from safe_jax.methods.text_head import TextHead
from safe_jax.runtime.lazy import jax, jnp
from safe_jax.runtime.schema import Bounds, knob

Steps = Annotated[int, AfterValidator(Bounds(ge=1, le=1000))]
OnAxis = Annotated[float, AfterValidator(Bounds(ge=0, le=1000))]  # a value of a or b


class AuthorsValues(NamedTuple):
    """Where Tip-Adapter's grid ends for a data set, and the `a` that keys are tuned with."""

    b_max: float
    a_max: float
    a: float


AUTHORS_VALUES = {
    "imagenet": AuthorsValues(7, 3, 1.17),
    "caltech101": AuthorsValues(12, 5, 3),
    "dtd": AuthorsValues(13, 13, 2),
    "eurosat": AuthorsValues(12, 10, 2),
    "fgvc_aircraft": AuthorsValues(30, 30, 5),
    "food101": AuthorsValues(10, 10, 1.17),
    "oxford_flowers": AuthorsValues(50, 50, 10),
    "oxford_pets": AuthorsValues(7, 3, 1.17),
    "stanford_cars": AuthorsValues(20, 10, 3),
    "sun397": AuthorsValues(12, 10, 1.17),
    "ucf101": AuthorsValues(7, 3, 3),
}
MEDIANS = AuthorsValues(12, 10, 2)  # of those, for other data sets


class CacheKnobs(Knobs):
    """The grid of a and b, and the values that keys are tuned with. 0: the authors'."""

    a_max: OnAxis = knob(0.0, "where the grid of a ends; 0: the authors' for the data set")
    a_steps: Steps = knob(20, "values of a in the grid")
    b_max: OnAxis = knob(0.0, "where the grid of b ends; 0: the authors' for the data set")
    b_steps: Steps = knob(200, "values of b in the grid")
    a: OnAxis = knob(0.0, "tuned keys' weight of the cache; 0: the authors'")
    b: OnAxis = knob(1.0, "tuned keys' sharpness of the cache")

    def for_dataset(self, benchmark: str) -> Self:
        values = AUTHORS_VALUES.get(benchmark, MEDIANS)._asdict()
        return self.model_copy(
            update={name: float(x) for name, x in values.items() if not getattr(self, name)}
        )


class CacheSettings(SelectionSettings, CacheKnobs):
    """What methods with a cache read of a config."""


_SMALL = 4096  # keys; a cache of no more has one shape for few shots and for many
_SMALL_SLOTS = 16  # the shots of the benchmark's largest subsets


class Slots(NamedTuple):
    """Which support image is in which slot: `image_ks`, and `filled_ks`, 0 where there is none."""

    image_ks: np.ndarray
    filled_ks: np.ndarray

    @classmethod
    def of(cls, label_n: np.ndarray, classes: int) -> "Slots":
        """A slot for every image; classes that have fewer leave the last ones empty.

        Where there are few classes there are slots to spare, so that what is compiled for 16 shots
        serves fewer: to compile takes longer than to add up some zeros.
        """
        counts = np.bincount(label_n, minlength=classes)
        slots = max(counts.max(), min(_SMALL_SLOTS, _SMALL // classes))
        filled_ks = np.arange(slots) < counts[:, None]
        image_ks = np.zeros(filled_ks.shape, np.int32)
        image_ks[filled_ks] = np.argsort(label_n, kind="stable")
        return cls(image_ks, filled_ks.astype(np.float32))


class CacheHead(NamedTuple):
    """The text head, which slots hold an image, and the alpha that SAFE-A's keys are tuned at."""

    head: TextHead
    filled_ks: "jax.Array"
    alpha: "jax.Array | None" = None


def cached_logits(
    feature_bd: "jax.Array", text_logits_bk: "jax.Array", keys_ksd: "jax.Array",
    filled_ks: "jax.Array",
) -> Callable:  # fmt: skip
    """A function from sharpness to one from weight to logits `(b, k)`.

    The exponentials of a sharpness are taken once for all weights.
    """
    cosine_bks = jnp.einsum("bd,ksd->bks", feature_bd, keys_ksd)

    def at_sharpness(sharpness):
        cache_bk = (filled_ks * jnp.exp(-sharpness * (1 - cosine_bks))).sum(-1)
        return lambda weight: text_logits_bk + weight * cache_bk

    return at_sharpness


def cache_grid(settings: CacheSettings) -> Grid:
    """Tip-Adapter's values of b, then of a: even steps from 0.1 on, without the end point.

    A single point, the values that keys are tuned with, where `selection` is fixed.
    """
    if settings.selection == "fixed":
        return {"b": np.array([settings.b]), "a": np.array([settings.a])}
    return {
        "b": np.linspace(0.1, settings.b_max, settings.b_steps, endpoint=False),
        "a": np.linspace(0.1, settings.a_max, settings.a_steps, endpoint=False),
    }
