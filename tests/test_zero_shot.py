"""The classifier made of prompts."""

import numpy as np

from safe_jax import clip
from safe_jax.data import datasets
from safe_jax.experiment import knobs
from safe_jax.methods import zero_shot
from tests import tiny


def test_a_class_is_the_mean_of_its_own_prompts(tiny_root, monkeypatch):
    monkeypatch.setattr(zero_shot, "TEXTS_PER_CALL", 4)  # a class may lie in two calls
    model = clip.load(tiny_root / "clip_tiny")
    prompts = [["a cat"], ["a dog", "a large dog", "some dog barks at night"], ["a cow", "a calf"]]
    wanted_kd = []
    for sentences in prompts:
        features_pd = np.asarray(model.encode_text(clip.tokenize(sentences)))
        mean_d = (features_pd / np.linalg.norm(features_pd, axis=-1, keepdims=True)).mean(0)
        wanted_kd.append(mean_d / np.linalg.norm(mean_d))
    found_kd = zero_shot.text_classifier(model, prompts)
    np.testing.assert_allclose(found_kd, np.stack(wanted_kd), rtol=1e-4, atol=1e-5)


def test_results_of_other_prompts_are_others(tiny_root, tmp_path):
    def identity(**changes):
        config = tiny.config(tiny_root, **changes)
        return knobs.experiment_hash(knobs.resolve(config), datasets.load(config), "digest")

    file, copy = tmp_path / "prompts.json", tmp_path / "copy.json"
    for path in (file, copy):
        path.write_text('{"red": ["a"], "green": ["b"], "blue": ["c"], "dark grey": ["d"]}')
    before = identity(prompts_file=str(file))
    assert before != identity()
    assert before == identity(prompts_file=str(copy))  # wherever they come from
    file.write_text(file.read_text().replace('"d"', '"d", "e"'))
    assert before != identity(prompts_file=str(file))
