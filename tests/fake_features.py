"""Features around a centre for each class, in place of what pools make of images."""

import types

import jax.numpy as jnp
import numpy as np

from tests import tiny

CLASSES, SHOTS, DIM = 4, 3, 32
COUNT = 30  # images to classify
CONFIG = tiny.freeze(
    {}, a=2.0, b=1.5, a_max=5.0, a_steps=7, b_max=12.0, b_steps=9, selection="few_shot_val",
    alpha=0.5, alpha_grid_size=5, blend="feature", ratio=0.2, reduction=4,
)  # fmt: skip


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def zero_shot_accuracy(feature_nd, text_kd, label_n):
    """In per cent, by NumPy."""
    return 100 * np.mean((np.asarray(feature_nd) @ np.asarray(text_kd).T).argmax(1) == label_n)


def make():
    """Of both pools, for support images in two views and for others; and a text classifier."""
    rng = np.random.default_rng(0)
    centre_kd = rng.normal(size=(CLASSES, DIM))
    support_label = np.delete(np.tile(np.arange(CLASSES), SHOTS), 5)  # class 1 has one less
    label = np.arange(COUNT) % CLASSES

    def around(centre_nd, views):
        noise_nvd = rng.normal(size=(len(centre_nd), views, DIM))
        return (3 * centre_nd[:, None] + 4 * noise_nvd).astype(np.float32)

    return types.SimpleNamespace(
        text=unit(centre_kd + 2 * rng.normal(size=centre_kd.shape)).astype(np.float32),
        label=label,
        original=around(centre_kd[label], 1)[:, 0],
        tuned=around(centre_kd[label], 1)[:, 0],
        support_label=support_label,
        support=around(centre_kd[support_label], 2),
        support_tuned=around(centre_kd[support_label], 2),
    )


def batch_of(data, **more):
    return {
        "original_bd": jnp.asarray(data.original),
        "tuned_bd": jnp.asarray(data.tuned),
        "label_b": jnp.asarray(data.label, jnp.int32),
        "mask_b": jnp.ones(COUNT),
    } | more
