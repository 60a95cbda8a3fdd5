"""Sentences that describe each class: templates filled in, or a file of them."""

import difflib
import logging
from collections.abc import Collection, Sequence
from typing import Annotated

import pydantic

from safe_jax.runtime import files, schema
from safe_jax.runtime.errors import InputError, listing
from safe_jax.runtime.paths import Path
from safe_jax.runtime.schema import Name, Text

log = logging.getLogger(__name__)

Prompts = tuple[tuple[str, ...], ...]  # of each class, by label


def _not_empty(sentences: tuple[str, ...]) -> tuple[str, ...]:
    if not sentences:
        raise ValueError("at least one sentence is expected")
    return sentences


_Sentences = Annotated[tuple[Name, ...], pydantic.AfterValidator(_not_empty)]


class _PromptsFile(pydantic.RootModel[dict[Text, _Sentences]]):
    model_config = pydantic.ConfigDict(strict=True)


def fill(templates: Sequence[str], classnames: Sequence[str]) -> Prompts:
    """Each class's name in each template. Raises `InputError` for a template with no `{}`."""
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r}: one {{}} is expected, for the class name")
    return tuple(tuple(t.replace("{}", name) for t in templates) for name in classnames)


def read(file: Path, classnames: Sequence[str]) -> Prompts:
    """A JSON file's sentences: `{"class name": ["a sentence", ...], ...}`.

    Classes beyond `classnames` are ignored. Raises `InputError` where the file is missing or
    malformed, and for classes that it lacks, with the nearest name that it has.
    """
    content = files.read(file, "no such file of prompts; see config.prompts_file")
    given = schema.read_json(_PromptsFile, content, f"{file}: ", by_hand=True).root
    by_name = {name.replace("_", " "): sentences for name, sentences in given.items()}
    if len(by_name) < len(given):
        twice = sorted(name for name in given if "_" in name and name.replace("_", " ") in given)
        raise InputError(f"{file}: {', '.join(twice)} with _ and with a space are one class")
    if absent := [name for name in classnames if name not in by_name]:
        spare = by_name.keys() - set(classnames)
        raise InputError(
            f"{file}: sentences for {len(absent)} of {len(classnames)} classes are missing:"
            + listing([name + _hint(name, spare) for name in absent])
        )
    return tuple(by_name[name] for name in classnames)


def warn_of_equal(prompts: Prompts, classnames: Sequence[str]) -> None:
    """Warns of classes whose prompts are the same to the tokenizer, which ignores case."""
    by_prompts: dict[tuple[str, ...], list[str]] = {}
    for name, sentences in zip(classnames, prompts, strict=True):
        plain = tuple(" ".join(sentence.casefold().split()) for sentence in sentences)
        by_prompts.setdefault(plain, []).append(name)
    for names in map(dict.fromkeys, by_prompts.values()):
        if len(names) > 1:  # one name of several labels is told of where the listing is read
            log.warning(
                "%s have the same prompts: zero-shot answers the first and never another",
                ", ".join(names),
            )


def _hint(name: str, spare: Collection[str]) -> str:
    near = difflib.get_close_matches(name, spare, n=1)
    return f" (there is {near[0]!r})" if near else ""
