"""Which spec is in force: the one that stands in the resource if it is valid, else the last one that was. Called by the
reconcile pass.

The API server refuses most invalid specs by the schema; what gets here is what only Python can tell, or what an older
schema let through.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from paceline.api import labels
from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment, check_update, from_manifest
from paceline.controller.api import Json
from paceline.controller.apply import stamped
from paceline.errors import SpecError
from paceline.policy.resources import Children, Images, children, revision
from paceline.policy.resources.accepted import accepted_spec, read_accepted


@dataclass(frozen=True, slots=True)
class Accepted:
    """The spec in force, and what it makes. Manifests carry their hash."""

    md: ModelDeployment
    children: Children
    supporting: tuple[Json, ...]
    """Everything but the engines' workloads, in the order in which it can be applied."""
    workloads: Mapping[str, Json]
    """Workloads of the engines by pool, without ``replicas``."""
    revision: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of the spec that stands in the resource."""

    accepted: Accepted | None
    """None where no spec was ever valid."""
    problem: Finding | None


class AcceptedSpecs:
    """Remembers the outcome for each ModelDeployment, since most passes see the spec that the last one saw. Bounded by
    the ModelDeployments that there are: forgotten with them.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._known: dict[Hashable, tuple[object, Acceptance]] = {}

    def accept(self, key: Hashable, raw: Json, config_map: Json | None, kinds: frozenset[str]) -> Acceptance:
        """See :func:`accept`."""
        metadata = raw["metadata"]
        kept = None if config_map is None else config_map["metadata"]["resourceVersion"]
        notes = metadata.get("annotations") or {}
        # A change of these changes no generation.
        asked = (notes.get(labels.PRIORITY), notes.get(labels.ENGINE_PROFILE))
        edition = (metadata["uid"], metadata["generation"], kept, kinds, asked)
        known = self._known.get(key)
        if known is not None and known[0] == edition:
            return known[1]
        acceptance = accept(raw, config_map, images=self._images, kinds=kinds)
        self._known[key] = (edition, acceptance)
        return acceptance

    def forget(self, key: Hashable) -> None:
        """The ModelDeployment is gone."""
        self._known.pop(key, None)


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
    made = children(md, images=images, kinds=kinds)
    engines = {engine.pool.name: engine.workload for engine in made.engines}
    apart = [id(workload) for workload in engines.values()]
    supporting = [each for each in made.manifests() if id(each) not in apart]
    return Accepted(
        md=md,
        children=made,
        supporting=tuple(stamped(each) for each in (accepted_spec(md, spec), *supporting)),
        workloads={pool: stamped(workload) for pool, workload in engines.items()},
        revision=revision(md, images),
    )
