"""A classifier with random text and a pool that was moved at random, for what times predicting."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from safe_jax.checkpoints import trees
from safe_jax.classifier.classifier import Classifier, Origin
from safe_jax.classifier.image_classifier import Backbone, ImageClassifier, Making
from safe_jax.clip.model import CLIP
from safe_jax.methods.contract import Setting
from safe_jax.methods.safe import Safe, SafeSettings
from safe_jax.methods.text_head import TextHead, unit

ALPHA, CLASSES, SCALE = 0.5, 100, 100.0


def make(model: CLIP, dtype: Any) -> ImageClassifier:
    """SAFE at `ALPHA`, on a model whose trunk computes in `dtype`."""
    rng = np.random.default_rng(0)
    text_kd = unit(rng.normal(size=(CLASSES, model.config.embed_dim)).astype(np.float32))
    head = TextHead(jnp.asarray(text_kd), jnp.float32(SCALE))
    method, _, context = Safe.start(Setting(model, head, None, shots=1, seed=0), SafeSettings())
    moved = {
        path: jnp.asarray(x + x.std() / 2 * rng.normal(size=x.shape).astype(np.float32))
        for path, x in trees.flatten(model.attnpool).items()
    }
    names = tuple(f"class {number}" for number in range(CLASSES))
    backbone = Backbone(
        name="random", digest="0" * 64, family="clip", config=model.config.model_dump(mode="json"),
        trunk_dtype=jnp.dtype(dtype).name, dense_dtype="float16",
    )  # fmt: skip
    making = Making(
        dataset="random", shots=1, seed=0, images="", config_hash="", train_images=1, val_images=0,
        temperature_images=0, selection="fixed",
    )  # fmt: skip
    classifier = Classifier(
        "safe", method, {"attnpool": trees.unflatten(moved)}, context, {"alpha": ALPHA}, names,
        Origin("random", "random", 1, 0, "", ""),
    )  # fmt: skip
    prompts = [[name] for name in names]
    return ImageClassifier(
        classifier, backbone, model.image_tower(), {}, 1.0, prompts, ["{}"], making
    )
