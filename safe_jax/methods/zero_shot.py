"""Zero-shot CLIP: class names and templates to a classifier.

Axes: k classes, b images, d channels of the joint space.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from safe_jax import clip, parallel

TEXTS_PER_CALL = 256


def unit(x):
    """Vectors along the last axis, scaled to length 1."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def text_classifier(model: clip.CLIP, classnames, templates) -> jax.Array:
    """A row of unit length for each class, `(k, d)`: its prompts' unit features, averaged."""
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    tokens_bt = clip.tokenize(prompts, model.config.context_length)
    # Nothing after end-of-text counts: cut what is padding in every row.
    tokens_bt = tokens_bt[:, : int(tokens_bt.argmax(-1).max()) + 1]
    graphdef, params = nnx.split(model)
    features = [
        np.asarray(_encode_text(graphdef, params, parallel.pad_to(part, TEXTS_PER_CALL)))[
            : len(part)
        ]
        for part in np.split(tokens_bt, range(TEXTS_PER_CALL, len(tokens_bt), TEXTS_PER_CALL))
    ]
    features_ktd = np.concatenate(features).reshape(len(classnames), len(templates), -1)
    return unit(unit(features_ktd).mean(1))


def accuracy(features_nd, text_kd, label_n: np.ndarray) -> float:
    """Per cent of features whose most similar row of the classifier is their label's."""
    return 100 * float(np.mean(np.asarray((features_nd @ text_kd.T).argmax(-1)) == label_n))


@partial(jax.jit, static_argnames="graphdef")
def _encode_text(graphdef, params, tokens_bt):
    return nnx.merge(graphdef, params).encode_text(tokens_bt)
