"""Pages are rendered from the templates beside this file."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jinja2
import markupsafe

from safe_jax.report.texts import visible


def render(name: str, **variables: Any) -> str:
    """The template NAME.html.jinja with these variables, each of which it must have.

    Text is escaped, and what of it cannot be seen is spelt out. The same variables give the same
    bytes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
    )
    environment.filters["listed"] = _listed
    return environment.get_template(f"{name}.html.jinja").render(variables)


def _shown(value: object) -> object:
    is_text = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
    return visible(value) if is_text else value


def _listed(values: Iterable[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last
