"""The shape of a SigLIP, and what its checkpoint says of images and texts.

This module loads no JAX.
"""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from safe_jax.data.preprocessing import Channels, Interpolation, Preprocessing
from safe_jax.runtime import schema
from safe_jax.runtime.schema import Count, Positive

CONTEXT_LENGTH = 64  # tokens of a text, in every release
EPSILON = 1e-6  # of layer norms, in every release

# What happens to a text before it is divided into tokens, as in training: SigLIP took punctuation
# out of lower-case text, SigLIP 2 keeps it (google-research/big_vision).
Canonical = Literal["lower_without_punctuation", "lower"]


class SigLIPConfig(schema.Model):
    """The numbers that determine the shape of every tensor, and the preprocessing.

    Widths of heads differ (so400m has 72 channels, the others 64), so heads are counted.
    """

    family: ClassVar[str] = "siglip"

    image_size: Positive  # pixels of a side
    patch_size: Positive
    vision_width: Positive
    vision_mlp_width: Positive
    vision_layers: Positive
    vision_heads: Positive
    text_width: Positive
    text_mlp_width: Positive
    text_layers: Positive
    text_heads: Positive
    vocab_size: Positive
    context_length: Positive = CONTEXT_LENGTH
    canonical: Canonical
    pad_token: Count  # the token that fills a row
    tokenizer_bytes: Positive  # of the tokenizer.json that is kept with the weights
    interpolation: Interpolation = "bicubic"
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size < self.patch_size:
            raise ValueError(
                f"an image_size of {self.image_size} is less than the patch_size, {self.patch_size}"
            )
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            if width % heads:
                raise ValueError(f"{tower}_heads={heads} does not divide {tower}_width={width}")
        return self

    @property
    def dense_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the dense map of an image of `image_size`."""
        side = self.image_size // self.patch_size
        return side, side, self.vision_width

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            size=self.image_size, fit="squash", interpolation=self.interpolation,
            mean=self.mean, std=self.std,
        )  # fmt: skip

    @property
    def embed_dim(self) -> int:
        """Channels of a feature."""
        return self.vision_width
