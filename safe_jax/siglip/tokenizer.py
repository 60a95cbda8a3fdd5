"""SigLIP's tokenizers, from the `tokenizer.json` of a checkpoint, by the `tokenizers` library."""

import functools
import re
import string

import numpy as np
from tokenizers import Tokenizer

from safe_jax.runtime.errors import InputError
from safe_jax.siglip.config import Canonical, SigLIPConfig


def tokenize(json: bytes, config: SigLIPConfig, texts: list[str]) -> np.ndarray:
    """int32 `(len(texts), context_length)`: tokens, the end of text, padding, as in training.

    Args:
        json: the contents of `tokenizer.json`.

    Raises `InputError`, which shows the text, where a text does not fit, and for a token that the
    model does not have.
    """
    if isinstance(texts, str):
        raise ValueError("tokenize takes a list of texts: write tokenize([text])")
    clean = [canonical(text, config.canonical) for text in texts]
    tokens = np.full((len(texts), config.context_length), config.pad_token, np.int32)
    for row, text, one in zip(tokens, texts, parse(json).encode_batch(clean), strict=True):
        if len(one.ids) > config.context_length:
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise InputError(
                f"{shown!r} has {len(one.ids)} tokens, of at most {config.context_length}: "
                "shorten the class name or the template"
            )
        row[: len(one.ids)] = one.ids
    # A file may well list more tokens than texts are made of, so those that are used are looked at.
    if tokens.size and tokens.max() >= config.vocab_size:
        raise InputError(
            f"the tokenizer gives token {tokens.max()}, but the model has embeddings of "
            f"{config.vocab_size}: the tokenizer.json that was converted belongs to another model"
        )
    return tokens


def canonical(text: str, how: Canonical) -> str:
    """A text as the tower was trained on texts."""
    text = text.lower()
    if how == "lower":
        return text
    text = text.translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


@functools.lru_cache(maxsize=4)
def parse(json: bytes) -> Tokenizer:
    """Reads a `tokenizer.json`. Raises `InputError` where it is none."""
    try:
        tokenizer = Tokenizer.from_buffer(json)
    except Exception as error:  # the library raises nothing more special
        raise InputError(f"tokenizer.json cannot be read: {error}") from error
    tokenizer.no_padding()  # a row is filled here, and a text that does not fit is refused
    tokenizer.no_truncation()
    return tokenizer
