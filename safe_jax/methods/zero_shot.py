"""Zero-shot CLIP: prompts to a classifier.

Axes: p prompts, t tokens, k classes, n images, d channels of the joint space.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from safe_jax import clip
from safe_jax.data.prompts import Prompts
from safe_jax.runtime import devices

TEXTS_PER_CALL = 256


def unit(x):
    """Vectors along the last axis, scaled to length 1."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def text_classifier(model: clip.CLIP, prompts: Prompts) -> jax.Array:
    """A row of unit length for each class, `(k, d)`: its prompts' unit features, averaged."""
    sentences = [sentence for of_class in prompts for sentence in of_class]
    tokens_pt = clip.tokenize(sentences, model.config.context_length)
    # Nothing after end-of-text counts: cut what is padding in every row.
    tokens_pt = tokens_pt[:, : int(tokens_pt.argmax(-1).max()) + 1]
    graphdef, params = nnx.split(model)
    features = [
        devices.fetch(_encode_text(graphdef, params, devices.pad_to(part, TEXTS_PER_CALL)))[
            : len(part)
        ]
        for part in np.split(tokens_pt, range(TEXTS_PER_CALL, len(tokens_pt), TEXTS_PER_CALL))
    ]
    features_pd = np.asarray(unit(np.concatenate(features)))
    first_k = np.cumsum([0, *map(len, prompts[:-1])])
    # The sum serves as well as the mean: it has the same direction. In NumPy, for every host does
    # this for itself, and an accelerator sums in any order.
    return unit(np.add.reduceat(features_pd, first_k))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """What turns a feature into logits and never trains: `text_kd` and `exp(logit_scale)`."""

    text_kd: jax.Array
    scale: jax.Array

    @classmethod
    def of(cls, model: clip.CLIP, text_kd) -> "Classifier":
        return cls(text_kd, jnp.exp(model.logit_scale[...]))


def logits(features_bd, text_kd, scale) -> jax.Array:
    """`scale` times the cosine of features and rows of unit length, `(b, k)`."""
    return scale * unit(features_bd) @ text_kd.T


@partial(jax.jit, static_argnames="graphdef")
def _encode_text(graphdef, params, tokens_bt):
    return nnx.merge(graphdef, params).encode_text(tokens_bt)
