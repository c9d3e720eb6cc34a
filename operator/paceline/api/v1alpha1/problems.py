"""From pydantic's errors to sentences for users: YAML paths, the value found, what is allowed, and a guess at typing
errors.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paceline.api.v1alpha1.base import PATTERN_WORDS
from paceline.errors import FieldProblem

LONGEST_VALUE: Final = 80
"""Characters of an offending value that a message repeats."""

_KINDS: Final = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a string; put it in quotes",
    "tuple_type": "must be a list, each entry after a dash",
    "list_type": "must be a list, each entry after a dash",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "missing": "is required",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "string_pattern_mismatch": "must match {pattern}",
    "enum": "must be one of {expected}",
    "literal_error": "must be {expected}",
    "extra_forbidden": "is not a known field",
    "json_invalid": "holds text that JSON can't carry, such as half of a surrogate pair",
}
"""Pydantic's error types, in the words of this project."""

_UNITS: Final = {
    "Milliseconds": "milliseconds",
    "Seconds": "seconds",
    "Minutes": "minutes",
    "Percent": "percent",
    "GiB": "GiB",
    "Tokens": "tokens",
}
"""Ends of field names, and the unit that they stand for."""

_BOOLEAN_WORDS: Final = re.compile(r"'(On|Off|Yes|No)'")
"""Words of ours that YAML reads as booleans where they stand bare."""


def field_problems(error: ValidationError, root: type[BaseModel]) -> list[FieldProblem]:
    """One problem an error, with paths as they stand in the YAML."""
    return [_problem(details, root) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, root: type[BaseModel]) -> FieldProblem:
    location, kind = details["loc"], details["type"]
    context = details.get("ctx", {})
    pattern = _KINDS.get(kind)
    message = pattern.format(**context) if pattern else details["msg"]
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERN_WORDS:
        message = f"must be {PATTERN_WORDS[context['pattern']]}"
    found = None if kind in {"missing", "json_invalid", "extra_forbidden"} else _shown(details["input"])
    return FieldProblem(_path(location), message + _hint(kind, location, details, root), found)


def _hint(kind: str, location: Sequence[int | str], details: ErrorDetails, root: type[BaseModel]) -> str:
    """What else helps whoever made this mistake; empty where the message says it all."""
    last = str(location[-1]) if location else ""
    if kind == "extra_forbidden":
        return _suggestion(last, location[:-1], root)
    if kind in {"int_type", "int_parsing", "int_from_float"}:
        unit = _unit_of(last)
        return f" of {unit}" if unit else ""
    if kind in {"model_type", "model_attributes_type"}:
        names = _fields_at(root, location)
        return f": {', '.join(names)}" if names else ""
    expected = str(details.get("ctx", {}).get("expected", ""))
    if kind == "enum" and isinstance(details["input"], bool) and _BOOLEAN_WORDS.search(expected):
        return '; YAML reads bare On, Off, Yes and No as booleans, so put the word in quotes, as in "Off"'
    return ""


def _unit_of(name: str) -> str:
    """Unit in the name of a field, in words; empty without one."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "(document)"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _suggestion(name: str, parents: Sequence[int | str], root: type[BaseModel]) -> str:
    known = _fields_at(root, parents)
    # Compared without case: ttftmilliseconds is as likely as ttftMiliseconds.
    by_lower = {field.lower(): field for field in known}
    # Whoever leaves out the unit means the field that has one.
    with_unit = [field for field in known if field.lower().startswith(name.lower()) and _unit_of(field)]
    if with_unit:
        return f"; did you mean {with_unit[0]}?"
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"; did you mean {by_lower[close[0]]}?"
    elsewhere = [place for place, field in _places(root) if field == name]
    if elsewhere:
        return f" here; it is one of {', '.join(elsewhere[:3])}"
    return f"; known are {', '.join(known)}" if known else ""


def _places(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Every place that has fields, with the name of each of its fields. The status is nobody's to write."""
    for name, info in model.model_fields.items():
        alias = info.alias or name
        if path or alias == "spec":
            yield path, alias
            for inner in _models_in(info.annotation):
                yield from _places(inner, f"{path}.{alias}" if path else alias)


def _fields_at(root: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields at ``location``; empty where no model is."""
    model: type[BaseModel] | None = root
    for part in location:
        if model is None:
            return []
        if isinstance(part, int):
            continue
        annotation = next(
            (info.annotation for name, info in model.model_fields.items() if (info.alias or name) == part), None
        )
        model = next(_models_in(annotation), None)
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple):
        for argument in get_args(annotation):
            yield from _models_in(argument)
