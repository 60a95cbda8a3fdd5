"""The text tower against torch, and the tokenizer against published tokens."""

import numpy as np
import pytest
import torch

from safe_jax import clip
from tests.clip.parity import call, load, relative
from tools import torch_clip


def test_the_text_tower_is_torchs(small):
    state, model = small
    tokens = clip.tokenize(["a photo of a dog.", "", "two cats & a very long-winded zebra"])
    expected = torch_clip.text(state, torch.from_numpy(tokens).long())
    assert relative(call(model, "encode_text", tokens), expected) < 1e-5
    shortest = int(tokens.argmax(-1).max()) + 1
    assert relative(call(model, "encode_text", tokens[:, :shortest]), expected) < 1e-5


def test_the_text_tower_has_gelu_as_well(small):
    state, _ = small
    tokens = clip.tokenize(["a photo of a dog."])
    quick_gelu = torch_clip.text(state, torch.from_numpy(tokens).long())
    gelu = call(load(state, activation="gelu"), "encode_text", tokens)
    assert 1e-4 < relative(gelu, quick_gelu) < 0.1


def test_tokens_are_the_published_ones():
    """Numbers that OpenAI's README and model cards show; `test_golden` has more."""
    tokens = clip.tokenize(["a diagram", "a dog"])
    assert tokens.shape == (2, 77)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[0, :5], [49406, 320, 22697, 49407, 0])
    np.testing.assert_array_equal(tokens[1, :5], [49406, 320, 1929, 49407, 0])


def test_the_tokenizer_undoes_entities_and_spaces():
    plain = clip.tokenize(['cats & "dogs" <b>'])
    np.testing.assert_array_equal(clip.tokenize(["cats  &amp;amp;\t“dogs” &lt;b&gt;\n"]), plain)


def test_the_tokenizer_shows_a_text_that_is_too_long():
    long = "photo " * 80
    with pytest.raises(ValueError, match=r"'photo photo .*\.\.\.' has 82 tokens, of at most 77"):
        clip.tokenize(["short", long])
    tokens = clip.tokenize([long], truncate=True)
    assert tokens[0, -1] == 49407
    with pytest.raises(ValueError, match="list of texts"):
        clip.tokenize("a photo")
