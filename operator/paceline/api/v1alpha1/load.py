"""From text to a valid ModelDeployment, or to a list of problems that a user can act on.

The command line reads files with :func:`load`; the controller hands the API server's objects to
:func:`from_manifest`. What passes here passes the API server, and the other way round: null means "left out", bounds
and rules are the CRD's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from paceline.api.labels import API_VERSION, KIND
from paceline.api.v1alpha1.base import MAP_KEYS
from paceline.api.v1alpha1.problems import field_problems
from paceline.api.v1alpha1.resource import ModelDeployment
from paceline.api.v1alpha1.rules import RULES, UPDATE_RULES
from paceline.api.yaml_reader import read_document
from paceline.errors import FieldProblem, SpecError

OPAQUE: Final = frozenset({"podTemplate"})
"""Fields in whose fields is what is somebody else's: nulls there have a meaning and stay."""


def load(text: str | bytes, source: str) -> ModelDeployment:
    """Read one ModelDeployment from YAML or JSON. ``source`` names the file in messages. Raises SpecError."""
    return from_manifest(read_document(text, source), source)


def from_manifest(manifest: object, source: str) -> ModelDeployment:
    """Validate a manifest that is parsed already. Raises SpecError with every problem found, not just the first."""
    if not isinstance(manifest, Mapping):
        raise SpecError(
            source, [FieldProblem("(document)", "must be a mapping with apiVersion, kind, metadata and spec")]
        )
    for field, expected in (("kind", KIND), ("apiVersion", API_VERSION)):
        found = manifest.get(field)
        if found != expected:
            # What `kubectl get -o yaml` prints of several, or of all.
            hint = "; put each item of the List into a file of its own" if found == "List" else ""
            raise SpecError(
                source, [FieldProblem(field, f"must be {expected}{hint}", "nothing" if found is None else repr(found))]
            )
    pruned = _without_nulls(manifest)
    try:
        deployment = ModelDeployment.model_validate_json(json.dumps(pruned, allow_nan=False), by_name=False)
    except ValidationError as error:
        raise SpecError(source, field_problems(error, ModelDeployment)) from None
    except (TypeError, ValueError) as error:
        raise SpecError(source, [FieldProblem("(document)", f"can't be expressed as JSON: {error}")]) from None
    problems = list(_broken_rules(deployment))
    if problems:
        raise SpecError(source, problems)
    return deployment


def check_update(new: ModelDeployment, old: ModelDeployment, source: str) -> None:
    """Raise SpecError where ``new`` changes something of ``old`` that can't be changed."""
    problems = [
        FieldProblem(_join(path, rule.field), rule.message, rule.found(value) if rule.found else None)
        for path, value, before in _pairs(new, old, "")
        for rule in UPDATE_RULES
        if type(value) is rule.model and not rule.holds(value, before)
    ]
    if problems:
        raise SpecError(source, problems)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_own_nulls(item) if key in OPAQUE else _without_nulls(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value


def _without_own_nulls(value: Any) -> Any:
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


def _broken_rules(deployment: ModelDeployment) -> Iterator[FieldProblem]:
    for path, value in _walk(deployment, ""):
        for rule in RULES:
            if type(value) is rule.model and not rule.holds(value):
                yield FieldProblem(_join(path, rule.field), rule.message, rule.found(value) if rule.found else None)
        yield from _repeated_names(path, value)


def _repeated_names(path: str, value: BaseModel) -> Iterator[FieldProblem]:
    for name, info in type(value).model_fields.items():
        extra = info.json_schema_extra
        if not isinstance(extra, dict) or MAP_KEYS not in extra:
            continue
        keys = [str(key) for key in extra[MAP_KEYS]]  # type: ignore[union-attr]
        seen: set[tuple[Any, ...]] = set()
        for index, item in enumerate(getattr(value, name)):
            dumped = item.model_dump(mode="json", by_alias=True)
            identity = tuple(dumped[key] for key in keys)
            if identity in seen:
                where = f"{_join(path, info.alias or name)}[{index}]"
                yield FieldProblem(
                    _join(where, keys[0]), "is there already; names in a list are unique", repr(identity[0])
                )
            seen.add(identity)


def _walk(value: object, path: str) -> Iterator[tuple[str, BaseModel]]:
    """Every model within ``value``, with its YAML path."""
    if isinstance(value, BaseModel):
        yield path, value
        for name, info in type(value).model_fields.items():
            yield from _walk(getattr(value, name), _join(path, info.alias or name))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]")


def _pairs(new: BaseModel, old: BaseModel, path: str) -> Iterator[tuple[str, BaseModel, BaseModel]]:
    """Every model that is in both, in the same place. Lists have no places of their own, as in CEL."""
    yield path, new, old
    for name, info in type(new).model_fields.items():
        left, right = getattr(new, name), getattr(old, name)
        if isinstance(left, BaseModel) and isinstance(right, BaseModel):
            yield from _pairs(left, right, _join(path, info.alias or name))


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path and field else path or field
