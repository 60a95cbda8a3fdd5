"""Texts to a SigLIP's tokens: canonical, ended, padded; what does not fit is refused."""

import pytest

from safe_jax.runtime.errors import InputError
from safe_jax.siglip.tokenizer import canonical, parse, tokenize


@pytest.fixture(scope="module")
def made(ours):
    return bytes(bytearray(ours.tokenizer_json[...])), ours.config


def test_a_text_is_ended_and_padded(made):
    json, config = made
    (row,) = tokenize(json, config, ["a photo of a dog"])
    vocabulary = parse(json).get_vocab()
    words = [vocabulary[word] for word in ["a", "photo", "of", "a", "dog", "</s>"]]
    assert row[: len(words)].tolist() == words
    assert set(row[len(words) :]) == {config.pad_token}
    assert row.shape == (64,)


def test_siglip_takes_no_punctuation_and_siglip_2_does():
    text = "A  photo of a Dark-grey\tcat!"
    assert canonical(text, "lower_without_punctuation") == "a photo of a darkgrey cat"
    assert canonical(text, "lower") == "a  photo of a dark-grey\tcat!"


@pytest.mark.parametrize(
    ("texts", "changed", "message"),
    [
        (["a " * 64], {}, "has 65 tokens, of at most 64: shorten the class name or the template"),
        (["a dog"], {"vocab_size": 3}, "belongs to another model"),
    ],
)
def test_what_does_not_fit_is_refused(made, texts, changed, message):
    json, config = made
    with pytest.raises(InputError, match=message):
        tokenize(json, config.model_copy(update=changed), texts)


def test_a_lone_text_and_a_broken_file_are_refused(made):
    json, config = made
    with pytest.raises(ValueError, match=r"write tokenize\(\[text\]\)"):
        tokenize(json, config, "a dog")
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        parse(json[:-20])
