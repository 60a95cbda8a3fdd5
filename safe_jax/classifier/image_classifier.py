"""A classifier with the pre-trained model before it: from 8-bit pixels to probabilities.

What is saved, loaded and exported; `artifact.py` has its folder on the disk.

Axes: b images, h rows, w columns, k classes, d channels of the joint space.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field

from safe_jax import backbones
from safe_jax.backbones.contract import ImageTower
from safe_jax.bank import extraction
from safe_jax.checkpoints import state_dict
from safe_jax.classifier import pools
from safe_jax.classifier.classifier import Classifier
from safe_jax.classifier.pools import Pools
from safe_jax.data.preprocessing import Preprocessing
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.text_head import TextHead, with_head
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime import devices, schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Count, NotNegative, Positive, Text


def _known(family: str) -> str:
    if family not in backbones.FAMILIES:
        raise ValueError(f"one of {', '.join(backbones.FAMILIES)} is expected")
    return family


class Backbone(schema.Model):
    """Which pre-trained model: its name, the digest of its weights, and its shape."""

    name: Text
    digest: Text
    family: Annotated[Text, AfterValidator(_known)]
    config: dict[str, Any]  # the family's, which `shape` checks
    trunk_dtype: Text  # of the trunk's computations
    dense_dtype: Text  # that dense maps are rounded to, as in the bank that was tuned on

    @property
    def shape(self) -> Any:
        """The family's config, a `BackboneConfig`."""
        return schema.check(backbones.FAMILIES[self.family].config, self.config, "backbone.")

    def model(self, state: Mapping[str, np.ndarray], tower: bool = True) -> Any:
        """The image tower, or the whole model, of a state dict under the checkpoint's names."""
        family, dtype = backbones.FAMILIES[self.family], jnp.dtype(self.trunk_dtype)
        kind = family.image_tower if tower else family.model
        return state_dict.from_state(family, state, self.shape, dtype, kind)


class Rated(schema.Model):
    """A learning rate and a weight decay, with the accuracy that they gave on validation images."""

    learning_rate: NotNegative
    weight_decay: NotNegative
    val_accuracy: NotNegative | None  # per cent; None where the loss diverged


class Worse(schema.Model):
    """A class that zero-shot recognises better: per cent of its validation images."""

    zero_shot: NotNegative
    tuned: NotNegative


class Making(schema.Model):
    """What a classifier was made from, and how the open values were chosen."""

    dataset: Text
    shots: Positive
    seed: Count
    images: Text  # a digest of the files' names, sizes and times of change
    config_hash: Text
    train_images: Positive
    val_images: Count
    temperature_images: Count  # validation images that chose the temperature
    selection: Text
    epochs: Positive | None = None
    learning_rate: NotNegative | None = None
    weight_decay: NotNegative | None = None
    candidates: list[Rated] = Field([])
    val_accuracy: NotNegative | None = None  # per cent
    val_accuracy_zero_shot: NotNegative | None = None
    worse: dict[Text, Worse] = Field({})
    notes: list[Text] = Field([])
    seen: list[Text] = Field([])  # digests of the images that it was tuned or chosen on, sorted


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClassifier:
    """Classifies images; everything that this takes is in its fields.

    `state` is the state dict of the whole pre-trained model under its checkpoint's names and in its
    precision; `tower` is made of it. `earlier_pool` are the parameters of the pool that the
    method before this one tuned, where the method takes its features. `temperature` divides logits
    before the softmax. `prompts` are the sentences of each class, and `templates` what they were
    made of, unless they were written by hand.
    """

    classifier: Classifier
    backbone: Backbone
    tower: ImageTower
    state: Mapping[str, np.ndarray]
    temperature: float
    prompts: Sequence[Sequence[str]]
    templates: Sequence[str]
    making: Making
    earlier_pool: Any = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def image_size(self) -> int:
        return self.tower.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        return self.tower.config.preprocessing

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return devices.make_mesh()

    @functools.cached_property
    def _folded(self):
        return extraction.fold(self.tower, self.mesh)

    @functools.cached_property
    def _pools(self) -> Pools:
        """The original pool, and the tuned one: this method's, or the one of the method before."""
        return Pools.of(self.tower, self.classifier.params.get("attnpool", self.earlier_pool))

    @property
    def has_tuned_pool(self) -> bool:
        return self._pools.tuned is not None

    def maps(self, pixels_bhwc: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Dense maps `(b, h, w, c)` of uint8 pixels, and the original pool's features `(b, d)`.

        The pixels are those of `images.whole`; a bank has the same maps of them.
        """
        graphdef, params = self._folded
        dtype = jnp.dtype(self.backbone.dense_dtype)
        with jax.default_matmul_precision("highest"):
            return extraction.extract_step(graphdef, params, pixels_bhwc, dtype)

    def logits_of_maps(self, dense_bhwc: jax.Array, original_bd: jax.Array) -> jax.Array:
        """`(b, k)`, of what `maps` gives."""
        takes = self.classifier.method.takes
        with jax.default_matmul_precision("highest"):
            arrays = {"dense_bhwc": dense_bhwc, "original_bd": original_bd}
            functions = self._pools.functions(takes)
            arrays |= {name: function(dense_bhwc) for name, function in functions.items()}
            return self.classifier.logits(arrays)

    def logits(self, pixels_bhwc: jax.Array | np.ndarray) -> jax.Array:
        """uint8 pixels `(b, size, size, 3)` to logits `(b, k)`, a pure function that JAX traces."""
        return self.logits_of_maps(*self.maps(pixels_bhwc))

    def probabilities(self, pixels_bhwc: jax.Array | np.ndarray) -> jax.Array:
        """uint8 pixels to probabilities `(b, k)`: the softmax of `logits / temperature`."""
        return jax.nn.softmax(self.logits(pixels_bhwc) / self.temperature)

    def attention(self, dense_bhwc: jax.Array) -> dict[str, jax.Array]:
        """Where the pools look in dense maps, `(b, h, w)` each; `tuned` where a pool was tuned."""
        graphdef, original, tuned = self._pools
        by_name = {"original": original} | ({} if tuned is None else {"tuned": tuned})
        return pools.attention(graphdef, by_name, dense_bhwc)

    def among(self, classes: Sequence[str], prompts: Sequence[Sequence[str]]) -> "ImageClassifier":
        """A classifier of other classes, by their prompts: the tuned pool with other text rows.

        The temperature stays. Raises `InputError` where the method learns something of each class.
        """
        if not METHODS[self.classifier.name].open_classes:
            raise InputError(
                f"{METHODS[self.classifier.name].label} learns something of each class and has no "
                "answer for others: fit one of "
                + ", ".join(name for name, method in METHODS.items() if method.open_classes)
            )
        model = self.backbone.model(self.state, tower=False)
        with jax.default_matmul_precision("highest"):
            head = TextHead.of(model, text_rows(model, prompts))
        context = with_head(self.classifier.context, head)
        classifier = dataclasses.replace(self.classifier, context=context, classes=tuple(classes))
        return dataclasses.replace(self, classifier=classifier, prompts=prompts)
