"""Random features around a centre for each class, in place of the features of images.

Axes: n images, v views, k classes, d channels of the joint space.
"""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np

from safe_jax.bank.view import View
from safe_jax.methods.contract import Setting
from safe_jax.methods.safe_a import SafeASettings
from safe_jax.methods.text_head import TextHead

CLASSES, SHOTS, DIM = 4, 3, 32
COUNT = 30  # images to classify
SETTINGS = SafeASettings(
    a=2.0, b=1.5, a_max=5.0, a_steps=7, b_max=12.0, b_steps=9, alpha_grid_size=5
)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def zero_shot_accuracy(feature_nd, text_kd, label_n):
    """In per cent, by NumPy."""
    return 100 * np.mean((np.asarray(feature_nd) @ np.asarray(text_kd).T).argmax(1) == label_n)


def make():
    """Text rows, and features of both pools: of support images in two views, and of others."""
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


def setting(model, data, **changed):
    """What a method starts from: the text rows, and the support images in two views."""
    arrays = {
        "original_bd": data.support.reshape(-1, DIM),
        "tuned_bd": data.support_tuned.reshape(-1, DIM),
    }
    train = View("support", arrays, 2, np.arange(len(data.support_label)), data.support_label)
    head = TextHead.of(model, jnp.asarray(data.text))
    return dataclasses.replace(Setting(model, head, train, SHOTS, seed=0), **changed)


def view_of(data):
    """The images to classify."""
    return View.of("images", {"original_bd": data.original, "tuned_bd": data.tuned}, data.label)


def batch_of(data, **more):
    """The images to classify as one batch."""
    return {
        "original_bd": jnp.asarray(data.original),
        "tuned_bd": jnp.asarray(data.tuned),
        "label_b": jnp.asarray(data.label, jnp.int32),
        "mask_b": jnp.ones(COUNT),
    } | more
