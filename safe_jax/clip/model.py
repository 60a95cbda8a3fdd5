"""CLIP with a ResNet image tower, assembled, and the shapes in which OpenAI released it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.resnet import ResNet
from safe_jax.clip.text import CONTEXT_LENGTH, TextTower


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The shape of a CLIP ResNet; everything else follows from these numbers."""

    embed_dim: int
    image_size: int
    vision_layers: tuple[int, int, int, int]
    vision_width: int
    text_width: int
    text_layers: int
    context_length: int = CONTEXT_LENGTH
    vocab_size: int = 49408
    activation: str = "quick_gelu"

    @property
    def dense_shape(self):
        """`(h, w, c)` of the dense map of an image of `image_size`."""
        return (self.image_size // 32, self.image_size // 32, 32 * self.vision_width)


PRESETS = {
    "RN50": CLIPConfig(1024, 224, (3, 4, 6, 3), 64, 512, 12),
    "RN101": CLIPConfig(512, 224, (3, 4, 23, 3), 64, 512, 12),
    "RN50x4": CLIPConfig(640, 288, (4, 6, 10, 6), 80, 640, 12),
    "RN50x16": CLIPConfig(768, 384, (6, 8, 18, 8), 96, 768, 12),
    "RN50x64": CLIPConfig(1024, 448, (3, 15, 36, 10), 128, 1024, 12),
}


class CLIP(nnx.Module):
    """A CLIP model with float32 parameters.

    `dtype` is what the trunk computes in (its parameters are cast on the way); pool, text tower
    and everything after them stay in float32, whose products accelerators round unless
    `jax.default_matmul_precision("highest")` is set, as a run sets it. `logit_scale` is a
    logarithm, as in OpenAI's code: logits are `exp(logit_scale)` times the cosine.
    """

    def __init__(self, config: CLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        h, _, c = config.dense_shape
        self.visual = ResNet(config.vision_layers, config.vision_width, dtype=dtype, rngs=rngs)
        self.attnpool = AttentionPool(h, c, config.embed_dim, rngs=rngs)
        self.text = TextTower(
            config.vocab_size,
            config.context_length,
            config.text_width,
            config.text_layers,
            config.embed_dim,
            config.activation,
            rngs=rngs,
        )
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

    @property
    def image_size(self) -> int:
        return self.config.image_size

    def folded(self) -> "CLIP":
        """The same model for inference alone, and faster: its trunk has no batch norms any more.

        Its leaves are not a checkpoint's: they cannot be converted, saved or tuned through.
        """
        model = nnx.clone(self)
        model.visual = self.visual.folded()
        return model

    def dense_features(self, images_bhwc) -> jax.Array:
        """Preprocessed float32 images `(b, size, size, 3)` to dense maps `(b, h, w, c)`."""
        return self.visual(images_bhwc)

    def encode_image(self, images_bhwc) -> jax.Array:
        """Preprocessed float32 images `(b, size, size, 3)` to features `(b, embed_dim)`."""
        return self.attnpool(self.dense_features(images_bhwc))

    def encode_text(self, tokens_bt) -> jax.Array:
        """Tokens `(b, t)` of `tokenize` to features `(b, embed_dim)`; neither is normalised."""
        return self.text(tokens_bt)
