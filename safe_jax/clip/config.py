"""The shape of a CLIP ResNet, and the shapes that OpenAI released.

This module loads no JAX.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from safe_jax.data.preprocessing import Preprocessing
from safe_jax.runtime import schema

CONTEXT_LENGTH = 77  # tokens of a text
HEAD_WIDTH = 64  # channels of an attention head, in every CLIP

Activation = Literal["quick_gelu", "gelu"]


def _multiple_of(unit: int, most: int) -> AfterValidator:
    """Checks a size that a file claims, before anything is built of it."""

    def check(size: int) -> int:
        if not 0 < size <= most or size % unit:
            raise ValueError(f"a multiple of {unit}, at most {most}, is expected")
        return size

    return AfterValidator(check)


def _at_most(most: int) -> AfterValidator:
    return AfterValidator(schema.Bounds(ge=1, le=most))


# Far above any CLIP's: they bound the time and the memory that a damaged file can take.
Blocks = Annotated[int, _at_most(50)]
Size = Annotated[int, _at_most(1 << 20)]
FourStages = tuple[Blocks, Blocks, Blocks, Blocks]


class CLIPConfig(schema.Model):
    """The numbers that determine the shape of every tensor of a CLIP ResNet."""

    family: ClassVar[str] = "clip"

    embed_dim: Size  # channels of a feature
    image_size: Annotated[int, _multiple_of(32, 1 << 14)]  # pixels of a side
    vision_layers: Annotated[FourStages, schema.ListOrTuple]  # residual blocks in each stage
    vision_width: Annotated[int, _multiple_of(2, 1 << 14)]  # channels of the stem's output
    text_width: Annotated[int, _multiple_of(HEAD_WIDTH, 1 << 16)]
    text_layers: Blocks
    context_length: Size = CONTEXT_LENGTH
    vocab_size: Annotated[int, _at_most(1 << 26)] = 49408
    activation: Activation = "quick_gelu"  # of the text tower

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.image_size)

    @property
    def dense_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the dense map of an image of `image_size`."""
        return self.image_size // 32, self.image_size // 32, 32 * self.vision_width


PRESETS = {
    "RN50": CLIPConfig(
        embed_dim=1024, image_size=224, vision_layers=(3, 4, 6, 3), vision_width=64,
        text_width=512, text_layers=12,
    ),
    "RN101": CLIPConfig(
        embed_dim=512, image_size=224, vision_layers=(3, 4, 23, 3), vision_width=64,
        text_width=512, text_layers=12,
    ),
    "RN50x4": CLIPConfig(
        embed_dim=640, image_size=288, vision_layers=(4, 6, 10, 6), vision_width=80,
        text_width=640, text_layers=12,
    ),
    "RN50x16": CLIPConfig(
        embed_dim=768, image_size=384, vision_layers=(6, 8, 18, 8), vision_width=96,
        text_width=768, text_layers=12,
    ),
    "RN50x64": CLIPConfig(
        embed_dim=1024, image_size=448, vision_layers=(3, 15, 36, 10), vision_width=128,
        text_width=1024, text_layers=12,
    ),
}  # fmt: skip
