"""The tool that trains the small CLIP, on a model and batches that are smaller still."""

import dataclasses
import random
import sys

import jax
import numpy as np
import pytest

from safe_jax import clip
from safe_jax.clip import torch_files, weights
from safe_jax.data import scenes
from safe_jax.runtime import devices
from tools import captions
from tools import pretrain_small_clip as pretrain


@pytest.fixture
def smaller(monkeypatch):
    config = dataclasses.replace(pretrain.CONFIG, vision_layers=(1, 1, 1, 1), vision_width=4)
    monkeypatch.setattr(pretrain, "CONFIG", config)
    monkeypatch.setattr(pretrain, "BATCH_SIZE", 8)
    monkeypatch.setattr(pretrain, "NORM_BATCHES", 2)
    monkeypatch.setattr(pretrain, "HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(pretrain, "CHECKPOINT_EVERY", 1)
    one = devices.make_mesh(jax.devices()[:1])  # for eight it takes far longer to compile
    monkeypatch.setattr(devices, "make_mesh", lambda: one)
    return config


def test_captions_say_what_is_in_the_scene():
    stage = pretrain.STAGES[1]
    for number in range(100):
        scene = pretrain.scene(stage, number)
        words = captions.caption(random.Random(number), scene).lower()
        names = [thing.name.lower() for thing in scene.things]
        numerals = [str(scenes.DIGITS.index(n)) for n in names if n in scenes.DIGITS]
        assert any(name in words for name in names + numerals)
        assert 1 <= len(scene.things) <= 4


def test_trains_goes_on_and_gives_the_same_weights_again(smaller, tmp_path, monkeypatch, capsys):
    def run(workdir, output):
        steps, paths = ["2", "1"], ["--workdir", str(workdir), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["tool", "--steps", *steps, *paths])
        pretrain.main()
        return torch_files.read(output)

    first = run(tmp_path / "a", tmp_path / "a.safetensors")
    # The second finds both stages done.
    again = run(tmp_path / "a", tmp_path / "again.safetensors")
    other = run(tmp_path / "b", tmp_path / "b.safetensors")
    for tensors in (again, other):
        assert tensors.keys() == first.keys()
        assert all((tensors[name] == first[name]).all() for name in first)
    assert "caption of 8" in capsys.readouterr().out

    start = weights.to_torch(weights.flatten(pretrain.new_model(128)))
    changed = [name for name in start if (start[name].astype(np.float16) != first[name]).any()]
    assert set(start) - set(changed) <= {"visual.attnpool.k_proj.bias"}
    torch_files.convert(tmp_path / "a.safetensors", tmp_path / "small")
    assert clip.load(tmp_path / "small").config == smaller


def test_tokens_that_no_caption_has_are_zeros():
    embedding = np.asarray(pretrain.new_model(64).text.token_embedding.embedding[...])
    used = {
        int(t)
        for n in range(50)
        for t in pretrain.make_batch(pretrain.STAGES[1], [n])["tokens_bt"][0]
    }
    assert (np.abs(embedding[sorted(used)]).max(1) > 0).all()
    assert (embedding == 0).all(1).sum() > 49000
