"""From prompts to the rows of a `TextHead`, by the model's text tower.

Axes: p prompts, t tokens, k classes, d channels of the joint space.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from safe_jax.backbones.contract import Backbone
from safe_jax.methods.text_head import unit
from safe_jax.runtime import devices

TEXTS_PER_CALL = 256


def text_rows(model: Backbone, prompts: Sequence[Sequence[str]]) -> jax.Array:
    """A row of unit length for each class, `(k, d)`: the mean of its prompts' unit features.

    Args:
        prompts: the sentences of each class.
    """
    sentences = [sentence for of_class in prompts for sentence in of_class]
    tokens_pt = model.tokenize(sentences)
    graphdef, params = nnx.split(model)
    features = [
        devices.fetch(_encode_text(graphdef, params, devices.pad_to(part, TEXTS_PER_CALL)))[
            : len(part)
        ]
        for part in np.split(tokens_pt, range(TEXTS_PER_CALL, len(tokens_pt), TEXTS_PER_CALL))
    ]
    features_pd = unit(np.concatenate(features))
    first_k = np.cumsum([0, *map(len, prompts[:-1])])
    # The sum has the direction of the mean. It is taken by NumPy, because every host computes it
    # for itself and an accelerator sums in any order.
    return jnp.asarray(unit(np.add.reduceat(features_pd, first_k)))


@partial(jax.jit, static_argnames="graphdef")
def _encode_text(graphdef, params, tokens_bt):
    return nnx.merge(graphdef, params).encode_text(tokens_bt)
