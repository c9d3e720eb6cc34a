"""Merges a user's ``podTemplate`` into the one that Paceline built, the way a strategic merge patch does.

Kubernetes merges lists of named things by a key that its types declare. Here is the part of those declarations that
pods have; every other list is replaced. The engine and router builders call it last, so what a user wrote is what
runs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from paceline.api.v1alpha1 import PodTemplate
from paceline.errors import FieldProblem, SpecError
from paceline.policy.resources.common import Manifest

MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that are merged, with the field that names an entry."""

QUANTITY: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
"""Kubernetes' notation of an amount."""

REPLACED: Final = frozenset({"env", "volumes"})
"""Lists whose entries are unions: merging `value` with `valueFrom`, or two kinds of volume, would make neither."""


def merge_pod_template(built: Manifest, template: PodTemplate | None, *, path: str, source: str) -> Manifest:
    """``built`` with the user's changes. Raises SpecError, with YAML paths from ``path``, where their shapes don't
    fit, and for what the API server would refuse in words that lead to no field of the user's: a container without an
    image, which most likely is a misspelt one of ours, and amounts that are none.
    """
    if template is None:
        return built
    problems: list[FieldProblem] = []
    result = copy.deepcopy(built)
    for part, patch in (("metadata", template.metadata), ("spec", template.spec)):
        if patch is not None:
            result[part] = _merge_mapping(result.get(part, {}), patch, f"{path}.{part}", problems)
    if not problems and template.spec is not None:
        problems.extend(_of_containers(built.get("spec", {}), template.spec, f"{path}.spec"))
    if problems:
        raise SpecError(source, problems)
    return result


def _merge_mapping(
    base: Mapping[str, Any], patch: Mapping[str, Any], path: str, problems: list[FieldProblem]
) -> Manifest:
    result = dict(base)
    for key, value in patch.items():
        where = f"{path}.{key}"
        if value is None:
            result.pop(key, None)
        elif key in MERGE_KEYS and isinstance(result.get(key, []), list):
            result[key] = _merge_named(result.get(key, []), value, key, where, problems)
        elif isinstance(result.get(key), Mapping):
            if isinstance(value, Mapping):
                result[key] = _merge_mapping(result[key], value, where, problems)
            else:
                problems.append(FieldProblem(where, "must be a mapping", repr(value)))
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merge_named(base: list[Any], patch: Any, name: str, path: str, problems: list[FieldProblem]) -> list[Any]:
    key = MERGE_KEYS[name]
    if not isinstance(patch, list | tuple):
        problems.append(FieldProblem(path, "must be a list", repr(patch)))
        return base
    result = list(base)
    places = {entry[key]: index for index, entry in enumerate(result)}
    for index, entry in enumerate(patch):
        where = f"{path}[{index}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get(key), str | int):
            problems.append(FieldProblem(where, f"must be a mapping with {key}", repr(entry)))
            continue
        place = places.setdefault(entry[key], len(result))
        if place == len(result):
            result.append(copy.deepcopy(dict(entry)))
        elif name in REPLACED:
            result[place] = copy.deepcopy(dict(entry))
        else:
            result[place] = _merge_mapping(result[place], entry, where, problems)
    return result


def _of_containers(built: Mapping[str, Any], patch: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """What no API server takes in the containers of ``patch``, whose shape was merged without a problem."""
    ours = {kind: [entry["name"] for entry in built.get(kind, ())] for kind in ("containers", "initContainers")}
    for kind, names in ours.items():
        for index, container in enumerate(patch.get(kind) or ()):
            where = f"{path}.{kind}[{index}]"
            if container["name"] not in names and not container.get("image"):
                known = f"; {', '.join(names)} is there already, and needs none" if names else ""
                yield FieldProblem(f"{where}.image", f"is required for a container that is added{known}")
            yield from _of_amounts(container.get("resources"), f"{where}.resources")


def _of_amounts(resources: object, path: str) -> Iterator[FieldProblem]:
    if not isinstance(resources, Mapping):
        return
    for kind in ("requests", "limits"):
        amounts = resources.get(kind)
        for name, amount in amounts.items() if isinstance(amounts, Mapping) else ():
            if isinstance(amount, str) and not QUANTITY.fullmatch(amount):
                yield FieldProblem(f"{path}.{kind}.{name}", "must be an amount such as 4Gi, 500m or 2", repr(amount))
