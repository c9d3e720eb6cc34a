"""Writes ``status`` when it differs from what stands there, and an Event for each condition that a person would want
to hear of. Called by the reconcile pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from paceline.api.conditions import ConditionType, Reason
from paceline.api.v1alpha1 import Condition, ModelDeploymentStatus
from paceline.clock import Clock
from paceline.controller.api import Json
from paceline.controller.events import Events
from paceline.controller.state import ClusterState
from paceline.controller.writer import Writer

WARNINGS: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.CHILD_REFUSED,
        Reason.ROLLOUT_STALLED,
        Reason.START_DEADLINE_EXCEEDED,
        Reason.IMAGE_PULL_FAILED,
        Reason.QUOTA_EXCEEDED,
        Reason.UNSCHEDULABLE,
        Reason.PODS_REFUSED,
        Reason.CRASHING,
        Reason.GPU_ERROR,
        Reason.ENGINE_STANDS_OUT,
        Reason.KIND_MISSING,
        Reason.FORBIDDEN,
        Reason.API_SERVER_TROUBLE,
        Reason.GPU_BUDGET_REACHED,
    }
)
"""Reasons that somebody should do something about. The first condition that takes one on makes an Event."""


class Reporter:
    """Keeps status and events true."""

    def __init__(self, state: ClusterState, writer: Writer, events: Events, clock: Clock) -> None:
        self._state = state
        self._writer = writer
        self._events = events
        self._clock = clock

    def now(self) -> datetime:
        """The present, as finely as the API server keeps it."""
        return datetime.fromtimestamp(self._clock.wall(), UTC).replace(microsecond=0)

    async def report(self, raw: Json, before: ModelDeploymentStatus, after: ModelDeploymentStatus) -> None:
        """Write what changed, if anything did."""
        old, new = _dump(before), _dump(after)
        changes = merge_patch(raw.get("status") or {}, new) if raw.get("status") else new
        if old == new and raw.get("status") is not None:
            return
        metadata = raw["metadata"]
        answer = await self._writer.status(metadata["namespace"], metadata["name"], changes)
        self._state.put_resource(answer)
        for reason, message, warning in _news(before.conditions, after.conditions):
            await self._events.write(raw, reason, message, warning=warning)


def read_status(raw: Json) -> ModelDeploymentStatus:
    """The status that stands in a resource. One that can't be read counts as none and is written anew."""
    status = raw.get("status")
    if not status:
        return ModelDeploymentStatus()
    try:
        return ModelDeploymentStatus.model_validate_json(msgspec.json.encode(status))
    except ValidationError:
        return ModelDeploymentStatus()


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """The JSON merge patch from one object to the other (RFC 7386): what is no longer there becomes null."""
    patch: Json = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif value != old:
            patch[key] = value
    return patch


def _dump(status: ModelDeploymentStatus) -> Json:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _news(before: tuple[Condition, ...], after: tuple[Condition, ...]) -> list[tuple[str, str, bool]]:
    """Reason, message and whether it is a warning, of what changed for a person."""
    old = {condition.type: condition for condition in before}
    news: list[tuple[str, str, bool]] = []
    told = {condition.reason for condition in before}
    for condition in after:
        known = old.get(condition.type)
        changed = known is None or known.reason != condition.reason
        if condition.reason in WARNINGS and changed and condition.reason not in told:
            news.append((condition.reason, condition.message or condition.reason, True))
            told.add(condition.reason)
        elif condition.type == ConditionType.READY and known is not None and known.status != condition.status:
            if condition.status == "True":
                news.append(("Ready", "Requests are answered, and everything asked for is there.", False))
            elif known.status == "True":
                news.append(("NotReady", condition.message or condition.reason, False))
    return news
