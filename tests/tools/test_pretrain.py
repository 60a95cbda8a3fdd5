"""The tool that trains the small CLIP, on a model and batches that are smaller still."""

import random
import shutil
import sys

import numpy as np
import pytest
from flax import nnx

from safe_jax import clip
from safe_jax.checkpoints import files as torch_files
from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip import convert
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP
from safe_jax.data import scenes
from tests import tiny
from tools import captions
from tools import pretrain_small_clip as pretrain


@pytest.fixture
def smaller(monkeypatch, one_device):
    """The tool trains this config, with few images and a checkpoint after every step."""
    smaller = {"vision_layers": (1, 1, 1, 1), "vision_width": 4, "text_layers": 1}
    config = pretrain.CONFIG.model_copy(update=smaller)
    monkeypatch.setattr(pretrain, "CONFIG", config)
    monkeypatch.setattr(pretrain, "CLIP", _drawn_by_numpy)
    monkeypatch.setattr(pretrain, "BATCH_SIZE", 8)
    monkeypatch.setattr(pretrain, "NORM_BATCHES", 2)
    monkeypatch.setattr(pretrain, "HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(pretrain, "CHECKPOINT_EVERY", 1)
    return config


def _drawn_by_numpy(config, *, rngs):
    """A CLIP with random weights, without compiling what draws them."""
    graphdef = nnx.graphdef(trees.abstract_model(config, kind=CLIP))
    return nnx.merge(graphdef, trees.unflatten(tiny.leaves(config)), copy=True)


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
    def run(output):
        paths = ["--workdir", str(tmp_path / "run"), "--output", str(tmp_path / output)]
        monkeypatch.setattr(sys, "argv", ["tool", "--steps", "2", "1", *paths])
        pretrain.main()
        return torch_files.read(tmp_path / output)

    def assert_equal(found, wanted):
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)

    def copied(leaves):  # for steps consume what they start from
        return {path: np.array(x) for path, x in leaves.items()}

    stages = []
    train_stage = pretrain.train_stage

    def recorded(stage, leaves, workdir):
        before = copied(leaves)
        after = train_stage(stage, leaves, workdir)
        stages.append((stage, before, copied(after)))
        return after

    monkeypatch.setattr(pretrain, "train_stage", recorded)
    first = run("first.safetensors")
    # What the second stage saved is gone: it takes its step again, from where the first had ended.
    shutil.rmtree(tmp_path / "run" / "together")
    assert_equal(run("again.safetensors"), first)
    # The first stage, from the start: the same command gives the same weights.
    stage, before, after = stages[0]
    assert stage.name == "alone"
    assert_equal(copied(train_stage(stage, before, tmp_path / "other")), after)
    assert "caption of 8" in capsys.readouterr().out

    start = state_dict.to_torch(FAMILY, trees.flatten(pretrain.new_model(128)))
    changed = [name for name in start if (start[name].astype(np.float16) != first[name]).any()]
    assert set(start) - set(changed) <= {"visual.attnpool.k_proj.bias"}
    convert.convert(tmp_path / "first.safetensors", tmp_path / "small")
    assert clip.load(tmp_path / "small").config == smaller


def test_tokens_that_no_caption_has_are_zeros(smaller):
    embedding = np.asarray(pretrain.new_model(64).text.token_embedding.embedding[...])
    used = {
        int(t)
        for n in range(50)
        for t in pretrain.make_batch(pretrain.STAGES[1], [n])["tokens_bt"][0]
    }
    assert (np.abs(embedding[sorted(used)]).max(1) > 0).all()
    assert (embedding == 0).all(1).sum() > 49000
