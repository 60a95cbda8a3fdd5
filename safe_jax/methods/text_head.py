"""The classifier made of text: a feature's cosine with one row a class.

Axes: b images, k classes, d channels of the joint space.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from safe_jax.runtime.lazy import jax, jnp, optax

if TYPE_CHECKING:
    from safe_jax.backbones.contract import Backbone

ArrayT = TypeVar("ArrayT", "jax.Array", np.ndarray)


class TextHead(NamedTuple):
    """Turns a feature into logits and never trains.

    `text_kd` has a row of unit length for each class; `scale` multiplies a cosine, it is
    `exp(logit_scale)`.
    """

    text_kd: "jax.Array"
    scale: "jax.Array"

    @classmethod
    def of(cls, model: "Backbone", text_kd: "jax.Array") -> "TextHead":
        return cls(text_kd, jnp.exp(model.logit_scale[...]))

    def logits(self, features_bd: "jax.Array") -> "jax.Array":
        """`(b, k)`, of features of any length."""
        return cosine_logits(features_bd, self.text_kd, self.scale)


def with_head(context: Any, head: TextHead) -> Any:
    """The context of a method with `open_classes`, with the text rows of other classes."""
    return head if isinstance(context, TextHead) else context._replace(head=head)


def unit(x: ArrayT) -> ArrayT:
    """Vectors along the last axis, scaled to length 1.

    NumPy's arrays are divided by NumPy: JAX would compile a program for each shape.
    """
    if isinstance(x, np.ndarray):
        with np.errstate(invalid="ignore", divide="ignore"):  # as JAX: of a zero vector, NaN
            return x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosine_logits(
    features_bd: "jax.Array", rows_kd: "jax.Array", scale: "jax.Array | float"
) -> "jax.Array":
    """`scale` times the cosine of features and rows of unit length, `(b, k)`."""
    return scale * unit(features_bd) @ rows_kd.T


def cross_entropy(logits_bk: "jax.Array", batch: dict[str, "jax.Array"]) -> "jax.Array":
    """The loss of each image, `(b,)`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_bk, batch["label_b"])
