"""From pydantic's errors to sentences for users: YAML paths, the value found, what is allowed, and a guess at typing
errors.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paceline.errors import FieldProblem

LONGEST_VALUE: Final = 80
"""Characters of an offending value that a message repeats."""

_KINDS: Final = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a string; put it in quotes",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
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


def field_problems(error: ValidationError, root: type[BaseModel]) -> list[FieldProblem]:
    """One problem an error, with paths as they stand in the YAML."""
    return [_problem(details, root) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, root: type[BaseModel]) -> FieldProblem:
    location, kind = details["loc"], details["type"]
    pattern = _KINDS.get(kind)
    message = pattern.format(**details.get("ctx", {})) if pattern else details["msg"]
    found = None if kind in {"missing", "json_invalid"} else _shown(details["input"])
    if kind == "extra_forbidden":
        found = None
        message += _suggestion(str(location[-1]), _fields_at(root, location[:-1]))
    elif kind == "enum" and isinstance(details["input"], bool):
        message += '; YAML reads bare On, Off, Yes and No as booleans, so put the word in quotes, as in "Off"'
    return FieldProblem(_path(location), message, found)


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "(document)"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _suggestion(name: str, known: Sequence[str]) -> str:
    # Compared without case: ttftmilliseconds is as likely as ttftMiliseconds.
    by_lower = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"; did you mean {by_lower[close[0]]}?"
    return f"; known are {', '.join(known)}" if known else ""


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
