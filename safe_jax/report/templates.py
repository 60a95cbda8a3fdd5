"""Pages are rendered from the templates beside this file."""

import pathlib
from collections.abc import Iterable
from typing import Any

import jinja2


def render(name: str, **variables: Any) -> str:
    """The template NAME.html.jinja with these variables, each of which it must have.

    Text is escaped. The same variables give the same bytes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["listed"] = _listed
    return environment.get_template(f"{name}.html.jinja").render(variables)


def _listed(values: Iterable[object]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last
