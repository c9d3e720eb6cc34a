"""Which spec is in force: the one that stands in the resource if it is valid, else the last one that was. Called by the
reconcile pass.

The API server refuses most invalid specs by the schema; what gets here is what only Python can tell, or what an older
schema let through.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment, check_update, from_manifest
from paceline.controller.api import Json
from paceline.errors import SpecError
from paceline.policy.resources import Children, Images, children
from paceline.policy.resources.accepted import read_accepted


@dataclass(frozen=True, slots=True)
class Accepted:
    """The spec in force, and what it makes."""

    md: ModelDeployment
    spec: Any
    """As the user wrote it."""
    children: Children


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of the spec that stands in the resource."""

    accepted: Accepted | None
    """None where no spec was ever valid."""
    problem: Finding | None


def accept(raw: Json, config_map: Json | None, *, images: Images, kinds: Collection[str]) -> Acceptance:
    """Decide. ``config_map`` holds the spec that was accepted last, where there was one."""
    last = None if config_map is None else read_accepted(config_map)
    before: Accepted | None = None
    if last is not None and last != raw.get("spec"):
        try:
            before = _build(raw, last, images, kinds)
        except SpecError:
            before = None  # a version of Paceline that accepted more wrote it
    try:
        now = _build(raw, raw.get("spec"), images, kinds)
        if before is not None:
            check_update(now.md, before.md, raw["metadata"]["name"])
    except SpecError as error:
        message = "; ".join(map(str, error.problems))
        if before is not None:
            message += ". The last valid spec stays in force."
        return Acceptance(before, Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.INVALID_SPEC, message))
    return Acceptance(now, None)


def _build(raw: Json, spec: Any, images: Images, kinds: Collection[str]) -> Accepted:
    manifest = {key: raw.get(key) for key in ("apiVersion", "kind", "metadata")} | {"spec": spec}
    md = from_manifest(manifest, raw["metadata"]["name"])
    return Accepted(md, spec, children(md, images=images, kinds=kinds))
