"""Types with bounds for everything that is read, and one line for whatever does not fit them.

Pydantic does the reading. Beside msgspec it takes longer to import (0.12 s against 0.02 s) and to
read a split file of 100,000 rows (36 ms against 13 ms), but it names the key of an object in which
a mistake is, hands over the value that was found, and goes on to the next mistake.

Numbers are finite, a boolean is no integer, and texts are valid UTF-8 without NUL, which no path
and no terminal takes.
"""

import collections
import functools
import json
import math
import re
from collections.abc import Container, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import pydantic
import pydantic_core
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_core import core_schema

from safe_jax.runtime.errors import InputError

T = TypeVar("T")

_SHOWN = 60  # characters of a value in a message


class Model(pydantic.BaseModel):
    """Declares what is read: each field with its type, bounds and default. It cannot change."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Bounds:
    """The least and the greatest value of a number, as a validator that says both."""

    def __init__(
        self,
        ge: float = -math.inf,
        le: float = math.inf,
        gt: float = -math.inf,
        lt: float = math.inf,
    ):
        self._holds = lambda x: ge <= x <= le and gt < x < lt
        limits = {"at least": ge, "above": gt, "at most": le, "below": lt}
        self.phrase = " and ".join(f"{k} {v}" for k, v in limits.items() if math.isfinite(v))

    def __call__(self, x: float) -> float:
        if not self._holds(x):
            raise ValueError(f"{self.phrase} is expected")
        return x


def _is_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text without NUL is expected")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("valid UTF-8 is expected") from None
    return text


def _not_blank(text: str) -> str:
    # Characters of no width are no text either, but most texts have none that cannot be printed.
    if not text.strip() or not (text.isprintable() or any(map(str.isprintable, text.strip()))):
        raise ValueError("a text that is not blank is expected")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression is expected ({error})") from None
    try:
        _matcher(text)
    except pydantic_core.SchemaError:
        raise ValueError(
            "a regular expression without look-around, references and huge repetitions is "
            "expected; name what is wanted, as in a|b"
        ) from None
    return text


def matches(pattern: str, text: str) -> bool:
    """Whether a `Pattern` matches the whole text, in time that is linear in its length.

    `re` goes back and tries again: `(a+)+b` takes it minutes on thirty letters. The engine that
    Pydantic brings never does, which is why it has no look-around and no references.
    """
    return _matcher(pattern).isinstance_python(text)


@functools.lru_cache
def _matcher(pattern: str) -> pydantic_core.SchemaValidator:
    whole = rf"\A(?:{pattern})\z"
    return pydantic_core.SchemaValidator(
        core_schema.str_schema(pattern=whole, regex_engine="rust-regex")
    )


def _different(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("different values are expected")
    return values


def _as_tuple(values: Any) -> Any:
    return tuple(values) if isinstance(values, list) else values


Text = Annotated[str, AfterValidator(_is_text)]
Name = Annotated[Text, AfterValidator(_not_blank)]
Pattern = Annotated[Text, AfterValidator(_pattern)]
Count = Annotated[int, AfterValidator(Bounds(ge=0))]
Positive = Annotated[int, AfterValidator(Bounds(ge=1))]
NotNegative = Annotated[float, AfterValidator(Bounds(ge=0))]
Fraction = Annotated[float, AfterValidator(Bounds(ge=0, le=1))]
Percent = Annotated[float, AfterValidator(Bounds(ge=0, le=100))]
Different = AfterValidator(_different)  # of the values of a tuple
ListOrTuple = BeforeValidator(_as_tuple)  # strict tuples refuse lists that Python code passes


def knob(default: Any, meaning: str) -> Any:
    """The default of a field that a user may set, and what it means in one line."""
    return Field(default, description=meaning)


def check(kind: type[T], value: Any, prefix: str) -> T:
    """`value` as `kind`, which is a `Model` or any other type that Pydantic knows.

    Args:
        prefix: what a message puts before the place of a mistake: `config.`, or `FILE: `.

    Raises `InputError`: the first mistake in a line, and how many more there are.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        raise InputError(_message(error, prefix)) from None


def check_complete(config: Container[str], knobs: Iterable[str], prefix: str = "") -> None:
    """Raises `InputError` for knobs that a config, or its group at `prefix`, does not have."""
    absent = [knob for knob in knobs if knob not in config]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise InputError(
            f"config.{prefix}{absent[0]} is missing{more}: a config is `default.get_config()` with "
            "changes"
        )


def read_json(kind: type[T], content: bytes, prefix: str, by_hand: bool = False) -> T:
    """As `check`, of the JSON in `content`; a byte-order mark is skipped.

    In a file that is written by hand a key may be there twice, of which parsers take the last:
    `by_hand` has it refused.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        found = TypeAdapter(kind).validate_json(content)
    except pydantic.ValidationError as error:
        raise InputError(_message(error, prefix)) from None
    if by_hand:
        pairs_hook = functools.partial(_keys_differ, prefix=prefix)
        json.loads(content, object_pairs_hook=pairs_hook, parse_int=str, parse_float=str)
    return found


def _keys_differ(pairs: list[tuple[str, Any]], prefix: str) -> None:
    count = collections.Counter(key for key, _ in pairs)
    if twice := [key for key, n in count.items() if n > 1]:
        raise InputError(f"{prefix}{shown(twice[0])} is there {count[twice[0]]} times; keep one")


def _message(error: pydantic.ValidationError, prefix: str) -> str:
    mistakes = error.errors(include_url=False)
    lines = [_line(mistake, prefix) for mistake in mistakes]
    if len(lines) == 1:
        return lines[0]
    return f"{lines[0]} (and {len(lines) - 1} more)"


def _line(mistake: Any, prefix: str) -> str:
    place = _place(mistake["loc"])
    where = prefix + place if place else prefix.rstrip(": .")
    kind = mistake["type"]
    if kind == "json_invalid":
        return f"{where} is not JSON: {mistake['ctx']['error']}"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where} is unknown: remove it"
    if kind == "value_error" and not place:  # of several fields, which the message names
        file = prefix if prefix.endswith(": ") else ""
        return f"{file}{mistake['ctx']['error']}"
    joint = "=" if place else ": "
    return f"{where}{joint}{shown(mistake['input'])}: {_expected(mistake)}"


def _place(loc: tuple) -> str:
    """`train[3][1]`, `boxes['a.jpg'][2]`, `prolip.epochs`."""
    parts = ""
    for step in loc:
        if isinstance(step, int):
            parts += f"[{step}]"
        elif re.fullmatch(r"\w+", step):
            parts += f".{step}"
        else:
            parts += f"[{step!r}]"
    return parts.removeprefix(".")


def shown(value: Any) -> str:
    """A value for a message, cut short: what a file holds may be of any length."""
    try:
        is_json = isinstance(value, Mapping | list)
        text = json.dumps(value, default=str) if is_json else repr(value)
    except (TypeError, ValueError, RecursionError):  # a number of 5,000 digits, an endless list
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


_EXPECTED = {
    "int_type": "a whole number is expected",
    "int_from_float": "a whole number is expected",
    "float_type": "a number is expected",
    "finite_number": "a finite number is expected",
    "bool_type": "True or False is expected",
    "string_type": "a text is expected",
    "string_unicode": "valid UTF-8 is expected",
    "list_type": "a list is expected",
    "tuple_type": "a list is expected",
    "dict_type": "an object is expected",
    "model_type": "an object is expected",
    "dataclass_type": "an object is expected",
    "none_required": "nothing (null) is expected",
}


def _expected(mistake: Any) -> str:
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return (
            f"one of {context['expected'].replace(chr(39), '').replace(' or ', ', ')} is expected"
        )
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        most = "at least" if kind == "too_short" else "at most"
        return f"{most} {bound} values are expected"
    return _EXPECTED.get(kind, mistake["msg"])


def _phrases(metadata: Iterable[Any]) -> list[str]:
    """The bounds among what stands beside a type."""
    return [m.func.phrase for m in metadata if isinstance(getattr(m, "func", None), Bounds)]


def describe(kind: type[Model]) -> list[str]:
    """A line for each field: its name, default, bounds and meaning, for a help text."""
    lines = []
    for name, field in kind.model_fields.items():
        bounds = _phrases(field.metadata)
        if get_origin(field.annotation) is tuple:
            of_value = getattr(get_args(field.annotation)[0], "__metadata__", ())
            bounds += [f"each {phrase}" for phrase in _phrases(of_value)]
        if get_origin(field.annotation) is Literal:
            *others, last = get_args(field.annotation)
            bounds.append(f"{', '.join(others)} or {last}")
        limits = f" ({', '.join(bounds)})" if bounds else ""
        lines.append(f"{name} = {field.default!r}{limits}: {field.description or ''}")
    return lines


__all__ = [
    "Bounds", "Count", "Different", "Fraction", "ListOrTuple", "Model", "Name", "NotNegative",
    "Pattern", "Percent", "Positive", "Text", "check", "check_complete", "describe",
    "knob", "matches", "read_json",
]  # fmt: skip
