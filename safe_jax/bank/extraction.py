"""Pixels to dense maps: the step that fills a bank, or that online tuning takes anew.

Axes: b images, h rows, w columns, c channels.
"""

import itertools
from functools import partial

import jax
import numpy as np
from flax import nnx

from safe_jax.clip.model import CLIP
from safe_jax.data import images
from safe_jax.runtime import devices


def fold(model: CLIP, mesh):
    """`graphdef` and `params` for `extract_step`."""
    graphdef, params = nnx.split(model)
    params = devices.replicate(mesh, params)
    folded = nnx.eval_shape(lambda params: nnx.merge(graphdef, params).folded(), params)
    return nnx.graphdef(folded), _fold(graphdef, params)


@partial(jax.jit, static_argnames="graphdef")
def _fold(graphdef, params):  # in one program: by itself each product would be compiled
    return nnx.state(nnx.merge(graphdef, params).folded())


@partial(jax.jit, static_argnames=("graphdef", "dtype"))
def extract_step(graphdef, params, pixels_bhwc, dtype):
    """8-bit pixels to dense maps of `dtype` and to the original pool's features of those.

    `graphdef` and `params` are those of `CLIP.folded`, on every device.
    """
    model = nnx.merge(graphdef, params)
    dense_bhwc = model.dense_features(images.normalize(pixels_bhwc)).astype(dtype)
    return dense_bhwc, model.attnpool(dense_bhwc)


def load_local(batches, own_rows, model, config):
    """Of each batch of crops the pixels of this host's rows; what a batch lacks is 0."""
    shape = (model.image_size, model.image_size, 3)
    kept, decoded = itertools.tee(
        [batch[row] for row in own_rows if row < len(batch)] for batch in batches
    )
    pixels = images.load_batches(
        filter(None, decoded), model.image_size, config.crop_scale, config.workers
    )
    for crops in kept:
        pixels_bhwc = next(pixels) if crops else np.zeros((0, *shape), np.uint8)
        yield devices.pad_to(pixels_bhwc, len(own_rows))
