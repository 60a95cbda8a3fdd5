"""Sentences that describe each class: templates filled in, or a file of them."""

import difflib
import json
from collections.abc import Sequence

from safe_jax.runtime.errors import InputError, listing

Prompts = tuple[tuple[str, ...], ...]  # of each class, by label


def fill(templates: Sequence[str], classnames: Sequence[str]) -> Prompts:
    """Each class's name in each template. Raises `InputError` for a template with no `{}`."""
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r}: one {{}} is expected, for the class name")
    return tuple(tuple(t.replace("{}", name) for t in templates) for name in classnames)


def read(file, classnames: Sequence[str]) -> Prompts:
    """A JSON file's sentences: `{"class name": ["a sentence", ...], ...}`.

    Classes that are not asked for are passed over. Raises `InputError` naming those that the file
    lacks, with the nearest name that it has.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file of prompts; see config.prompts_file") from None
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(map(_is_sentences, content.values())):
        raise InputError(f"{file}: an object of class names with a list of sentences each expected")
    content = {name.replace("_", " "): sentences for name, sentences in content.items()}
    if absent := [name for name in classnames if name not in content]:
        spare = content.keys() - set(classnames)
        raise InputError(
            f"{file}: sentences for {len(absent)} of {len(classnames)} classes are missing:"
            + listing([name + _hint(name, spare) for name in absent])
        )
    return tuple(tuple(content[name]) for name in classnames)


def _is_sentences(x):
    return isinstance(x, list) and x and all(isinstance(s, str) and s.strip() for s in x)


def _hint(name, spare):
    near = difflib.get_close_matches(name, spare, n=1)
    return f" (there is {near[0]!r})" if near else ""
