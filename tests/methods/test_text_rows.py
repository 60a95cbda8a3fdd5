"""The rows of a text head."""

import numpy as np

from safe_jax import clip
from safe_jax.methods import text_rows
from safe_jax.methods.text_head import TextHead


def test_a_class_is_the_mean_of_its_own_prompts(tiny_root, monkeypatch):
    monkeypatch.setattr(text_rows, "TEXTS_PER_CALL", 4)  # a class may lie in two calls
    model = clip.load(tiny_root / "clip_tiny")
    prompts = [["a cat"], ["a dog", "a large dog", "some dog barks at night"], ["a cow", "a calf"]]
    sentences = [sentence for of_class in prompts for sentence in of_class]
    features = np.asarray(model.encode_text(clip.tokenize(sentences)))
    wanted_kd = []
    for features_pd in np.split(features, [1, 4]):
        mean_d = (features_pd / np.linalg.norm(features_pd, axis=-1, keepdims=True)).mean(0)
        wanted_kd.append(mean_d / np.linalg.norm(mean_d))
    text_kd = text_rows.text_rows(model, prompts)
    np.testing.assert_allclose(text_kd, np.stack(wanted_kd), rtol=1e-4, atol=1e-5)


def test_logits_are_scaled_cosines(model, scale, data):
    head = TextHead.of(model, data.text)
    unit_bd = data.original / np.linalg.norm(data.original, axis=-1, keepdims=True)
    wanted_bk = scale * unit_bd @ data.text.T
    for length in (1.0, 0.01):  # a feature's length does not matter
        logits_bk = head.logits(length * data.original)
        np.testing.assert_allclose(logits_bk, wanted_bk, rtol=1e-4, atol=1e-4)
