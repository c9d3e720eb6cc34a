"""``paceline status`` as data: what a deployment is, what it does now and why, and what each engine waits for. Pure.

Made from what the API server says, read as the operator reads it; ``status`` prints it as a table or as a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from paceline.api import labels
from paceline.cli.advice import Problem, problems_of
from paceline.cli.cluster import Json
from paceline.cli.engines import EngineLine, count_accelerators, engine_lines
from paceline.cli.words import ago, counts_in_words, duration, sentences
from paceline.policy.lifecycle.observed import seconds_of

EVENTS: Final = 5
"""The last ones are shown."""
ROLES: Final = ("prefill", "decode", "both")


class RoleLine(msgspec.Struct, frozen=True, rename="camel"):
    """Engines in one role, as the status counts them."""

    role: str
    desired: int
    ready: int
    starting: int
    draining: int


class ConditionLine(msgspec.Struct, frozen=True, rename="camel"):
    """A condition, and for how long its status has been what it is."""

    type: str
    status: str
    reason: str
    message: str
    since: str | None
    seconds: float | None


class EventLine(msgspec.Struct, frozen=True, rename="camel"):
    """Something that the operator told about the deployment."""

    seconds_ago: float | None
    type: str
    reason: str
    message: str
    count: int


class Overview(msgspec.Struct, frozen=True, rename="camel"):
    """One deployment. Times in seconds, counted by the API server's clock."""

    namespace: str
    name: str
    model: str
    mode: str
    """How far the planner may go: ``spec.scaling.mode``."""
    ready: bool
    reason: str
    """Of the Ready condition."""
    message: str
    seconds: float | None
    """For how long it has been ready, or not."""
    endpoint: str | None
    revision: str | None
    objective: str
    attainment: str
    """Share of requests within it; empty where the status has none."""
    ratio: str
    accelerators: int
    """That its pods hold or ask for."""
    budget: int | None
    """``spec.scaling.gpuBudget``."""
    recommended: str
    """What the planner would have, where that differs from what is asked for."""
    roles: tuple[RoleLine, ...]
    doing: tuple[str, ...]
    """What it is doing now, and why."""
    problems: tuple[Problem, ...]
    """What is wrong, and where to look next; most telling first."""
    conditions: tuple[ConditionLine, ...]
    engines: tuple[EngineLine, ...]
    routers: tuple[EngineLine, ...]
    events: tuple[EventLine, ...]

    def document(self) -> dict[str, Any]:
        """As plain values, with the names that the resource has."""
        return dict(msgspec.to_builtins(self))


def make_overview(
    resource: Json,
    pods: Sequence[Json],
    *,
    events: Iterable[Json] = (),
    warnings: Iterable[Json] = (),
    silent_seconds: float | None = None,
    now: float,
) -> Overview:
    """``events`` are about the resource, ``warnings`` about pods of its namespace, ``silent_seconds`` for how long no
    operator has said that it lives, if it should have. ``now`` in seconds since the epoch.
    """
    metadata, spec, status = resource["metadata"], resource.get("spec") or {}, resource.get("status") or {}
    conditions = tuple(_conditions(status, now))
    ready = next((one for one in conditions if one.type == "Ready"), None)
    seconds = _drain_and_start(spec)
    by_pod = {event["involvedObject"]["name"]: str(event.get("message", "")) for event in warnings}
    engines = engine_lines(pods, labels.COMPONENT_ENGINE, by_pod, deadlines=seconds, now=now)
    routers = engine_lines(pods, labels.COMPONENT_ROUTER, by_pod, deadlines=seconds, now=now)
    scaling = status.get("scaling") or {}
    roles = tuple(_roles(status))
    asked = counts_in_words({one.role: one.desired for one in roles})
    recommended = counts_in_words(scaling["recommended"]) if scaling.get("recommended") else ""
    return Overview(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=str((spec.get("model") or {}).get("name", "")),
        mode=str((spec.get("scaling") or {}).get("mode", "Auto")),
        ready=ready is not None and ready.status == "True",
        reason="NotObservedYet" if ready is None else ready.reason,
        message="" if ready is None else ready.message,
        seconds=None if ready is None else ready.seconds,
        endpoint=status.get("endpoint"),
        revision=status.get("revision"),
        objective=_objective(spec),
        attainment=_attainment(status),
        ratio=str(status.get("ratio") or ""),
        accelerators=count_accelerators(pods),
        budget=(spec.get("scaling") or {}).get("gpuBudget"),
        recommended=recommended if recommended != asked else "",
        roles=roles,
        doing=tuple(_doing(resource, conditions, engines, now)),
        problems=problems_of(
            resource,
            [(one.type, one.status, one.reason, one.message, one.seconds) for one in conditions],
            [*engines, *routers],
            silent_seconds=silent_seconds,
        ),
        conditions=conditions,
        engines=engines,
        routers=routers,
        events=tuple(_events(events, now)),
    )


def _conditions(status: Json, now: float) -> Iterable[ConditionLine]:
    for one in status.get("conditions") or ():
        since = one.get("lastTransitionTime")
        begun = seconds_of(since)
        yield ConditionLine(
            type=str(one.get("type", "")),
            status=str(one.get("status", "")),
            reason=str(one.get("reason", "")),
            message=str(one.get("message", "")),
            since=since,
            seconds=None if begun is None else max(0.0, now - begun),
        )


def _roles(status: Json) -> Iterable[RoleLine]:
    found = status.get("roles") or {}
    for role in ROLES:
        if role in found:
            one = found[role]
            numbers = {name: int(one.get(name, 0)) for name in ("desired", "ready", "starting", "draining")}
            yield RoleLine(role=role, **numbers)


def _objective(spec: Json) -> str:
    slo = spec.get("slo") or {}
    limits = (slo.get("ttftMilliseconds"), slo.get("itlMilliseconds"))
    if None in limits:
        return ""
    share = slo.get("targetPercent")
    return f"TTFT {limits[0]} ms, ITL {limits[1]} ms" + ("" if share is None else f", for {share}% of requests")


def _attainment(status: Json) -> str:
    slo = status.get("slo")
    if not slo:
        return ""
    return f"{slo.get('summary') or slo.get('attainmentPercent')} over {duration(float(slo.get('windowSeconds', 0)))}"


def _doing(
    resource: Json, conditions: Sequence[ConditionLine], engines: Sequence[EngineLine], now: float
) -> Iterable[str]:
    metadata, status = resource["metadata"], resource.get("status") or {}
    if metadata.get("deletionTimestamp"):
        yield "It is being deleted: engines finish their work and go."
    progressing = next((one for one in conditions if one.type == "Progressing"), None)
    if progressing is not None and progressing.status == "True":
        message = progressing.message or f"{progressing.reason}."
        yield f"{message} (for {duration(progressing.seconds)})"
    for state, told in (("draining", "Draining"), ("changing", "Changing roles")):
        names = [one.pod for one in engines if one.state == state]
        if names:
            yield f"{told}: {_some(names)}."
    yield from _last_decision(status, now)


def _last_decision(status: Json, now: float) -> Iterable[str]:
    history = (status.get("scaling") or {}).get("history") or ()
    if not history:
        return
    last = history[0]
    begun = seconds_of(last.get("time"))
    change = f"{counts_in_words(last.get('before') or {})} -> {counts_in_words(last.get('after') or {})}"
    when = ago(None if begun is None else max(0.0, now - begun))
    yield f"Last decision {when}: {change}, bound by {last.get('limit')}."
    yield from sentences(str(last.get("reason", "")))


def _events(events: Iterable[Json], now: float) -> Iterable[EventLine]:
    for event in list(events)[-EVENTS:]:
        at = seconds_of(event.get("lastTimestamp") or event.get("eventTime"))
        yield EventLine(
            seconds_ago=None if at is None else max(0.0, now - at),
            type=str(event.get("type", "")),
            reason=str(event.get("reason", "")),
            message=str(event.get("message", "")),
            count=int(event.get("count") or 1),
        )


def _drain_and_start(spec: Mapping[str, Any]) -> tuple[float | None, float | None]:
    engine = spec.get("engine") or {}
    return engine.get("drainSeconds"), engine.get("startDeadlineSeconds")


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
