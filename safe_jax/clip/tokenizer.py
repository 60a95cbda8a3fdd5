"""CLIP's tokenizer: byte-pair encoding of lower-case text, by the `tokenizers` library.

`merges.txt` has the pairs of OpenAI's vocabulary in their order (openai/CLIP, MIT licence); the
48,894 of them, the bytes, the bytes that end a word, and two special tokens are its 49,408 tokens.
"""

import functools
import html
import pathlib
import re

import ftfy
import numpy as np
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from safe_jax.clip.config import CONTEXT_LENGTH
from safe_jax.runtime.errors import InputError

_MERGES = pathlib.Path(__file__).with_name("merges.txt")
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenize(
    texts: list[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False
) -> np.ndarray:
    """Tokenizes as OpenAI's `clip.tokenize` does: int32 `(len(texts), context_length)`.

    There is one difference: a text that spells a special token, such as `<|endoftext|>`, is plain
    text here, and that token in OpenAI's code.

    Raises `InputError`, which shows the text, where a text does not fit and `truncate` is not set.
    """
    if isinstance(texts, str):
        raise ValueError("tokenize takes a list of texts: write tokenize([text])")
    encoded = _tokenizer().encode_batch([_clean(text) for text in texts], add_special_tokens=False)
    start, end = (_vocabulary()[name] for name in (START, END))
    tokens = np.zeros((len(texts), context_length), np.int32)
    for row, text, words in zip(tokens, texts, encoded, strict=True):
        ids = [start, *words.ids, end]
        if len(ids) > context_length and not truncate:
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise InputError(
                f"{shown!r} has {len(ids)} tokens, of at most {context_length}: shorten the "
                "class name or the template (in Python, truncate=True drops its end)"
            )
        if len(ids) > context_length:
            ids = [*ids[: context_length - 1], end]
        row[: len(ids)] = ids
    return tokens


def _clean(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text)))  # twice, as CLIP was trained
    return re.sub(r"\s+", " ", text).strip().lower()


@functools.cache
def _vocabulary() -> dict[str, int]:
    """The number of each token; a byte is written as the character that BPE has for it."""
    characters = _byte_characters()
    names = [*characters, *(c + _WORD_END for c in characters), *map("".join, _merges())]
    return {name: number for number, name in enumerate((*names, START, END))}


def _byte_characters() -> list[str]:
    """A visible character for each byte, in CLIP's order: printable ones for themselves, first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(others)]


@functools.cache
def _merges() -> list[tuple[str, str]]:
    lines = _MERGES.read_text(encoding="utf-8").splitlines()
    return [(first, second) for first, second in map(str.split, lines)]


@functools.cache
def _tokenizer() -> Tokenizer:
    model = BPE(_vocabulary(), _merges(), end_of_word_suffix=_WORD_END)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
