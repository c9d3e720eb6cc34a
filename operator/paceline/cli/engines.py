"""Pods of a deployment, one line each: role, state, and what a pod that does not serve waits for. Pure; part of
``paceline status``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from paceline.api import labels
from paceline.cli.cluster import Json
from paceline.cli.words import duration
from paceline.policy.lifecycle.observed import Pod, read_pod, seconds_of

LONGEST_WAIT: Final = 300
"""Characters of somebody else's message in a table."""
PLAIN_RESOURCES: Final = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})


class EngineLine(msgspec.Struct, frozen=True, rename="camel"):
    """One pod."""

    pod: str
    role: str
    """``-`` before it has one; ``prefill->decode`` on the way from one to the other."""
    state: str
    """``ready``, ``starting``, ``draining``, ``changing``, ``stuck``, ``ending``, ``failed`` or ``succeeded``."""
    node: str
    age_seconds: float
    restarts: int
    waits_for: str
    """Empty where it serves."""


def engine_lines(
    pods: Iterable[Json],
    component: str,
    warnings: Mapping[str, str],
    *,
    deadlines: tuple[float | None, float | None],
    now: float,
) -> tuple[EngineLine, ...]:
    """Lines of the pods of a component, by role and name. ``warnings``: the last warning about each pod, by name.
    ``deadlines``: seconds in which an engine drains, and in which it starts.
    """
    lines = []
    for raw in pods:
        pod = read_pod(raw)
        if pod.component != component:
            continue
        state = _state(pod, raw)
        waits = "" if state == "ready" else _waits_for(pod, raw, warnings.get(pod.name, ""), deadlines, now)
        role = f"{pod.role}->{pod.next_role}" if pod.next_role is not None else str(pod.role or "-")
        lines.append(
            EngineLine(
                pod=pod.name,
                role=role,
                state=state,
                node=str((raw.get("spec") or {}).get("nodeName") or "-"),
                age_seconds=max(0.0, now - pod.created),
                restarts=sum(int(one.get("restartCount", 0)) for one in _containers(raw)),
                waits_for=waits,
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.role, line.pod)))


def count_accelerators(pods: Sequence[Json]) -> int:
    """Accelerators that pods hold, or ask for while they wait: whatever is no plain resource of a node."""
    total = 0
    for raw in pods:
        if (raw.get("status") or {}).get("phase") in {"Failed", "Succeeded"}:
            continue
        for container in (raw.get("spec") or {}).get("containers") or ():
            limits = (container.get("resources") or {}).get("limits") or {}
            total += sum(_whole(amount) for name, amount in limits.items() if _is_accelerator(name))
    return total


def _state(pod: Pod, raw: Json) -> str:
    if pod.deleting:
        return "ending"
    if pod.finished:
        return str(raw["status"]["phase"]).lower()
    if pod.asked_to_drain:
        return "draining"
    if pod.trouble is not None:
        return "stuck"
    if pod.next_role is not None:
        return "changing"
    return "ready" if pod.ready else "starting"


def _waits_for(pod: Pod, raw: Json, warning: str, deadlines: tuple[float | None, float | None], now: float) -> str:
    drain_seconds, start_seconds = deadlines
    if pod.deleting:
        return "its processes to end"
    if pod.finished:
        return "nothing: it has ended, and its workload makes another one"
    if pod.asked_to_drain:
        return "its last requests" + _since(pod.drain_started, drain_seconds, now)
    if pod.trouble is not None:
        return _last_end(raw, now) + f"{pod.trouble.reason}: {pod.trouble.message}"[:LONGEST_WAIT]
    if pod.next_role is not None:
        return f"its last requests before it serves {pod.next_role}" + _since(pod.change_started, drain_seconds, now)
    waiting = next(iter(_waiting(raw)), None)
    if waiting is not None:
        return _last_end(raw, now) + (f"{waiting}: {warning}" if warning else waiting)[:LONGEST_WAIT]
    if not (raw.get("spec") or {}).get("nodeName"):
        return "a node"
    if not pod.containers_ready:
        what = "its model to load and warm up" if pod.component == labels.COMPONENT_ENGINE else "its start"
        return _last_end(raw, now) + what + _since(pod.created, start_seconds, now)
    if pod.component == labels.COMPONENT_ENGINE and (pod.role is None or pod.serving is not True):
        return "the operator, which gives it a role and lets it serve"
    return "Kubernetes, which is to find it ready"


def _since(begun: float | None, most: float | None, now: float) -> str:
    """For how long, and how long it may take."""
    if begun is None:
        return ""
    return f", {duration(max(0.0, now - begun))}" + ("" if most is None else f" of at most {duration(most)}")


def _waiting(raw: Json) -> Iterator[str]:
    """Why containers do not run. A pod without any word of them has no node yet."""
    for container in _containers(raw):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            reason, message = waiting.get("reason") or "Waiting", waiting.get("message")
            yield f"{reason}: {message}" if message else str(reason)


def _last_end(raw: Json, now: float) -> str:
    """How a container ended that was started again."""
    for container in _containers(raw):
        ended = (container.get("lastState") or {}).get("terminated")
        if ended:
            at = seconds_of(ended.get("finishedAt"))
            when = "" if at is None else f" {duration(max(0.0, now - at))} ago"
            return f"{ended.get('reason') or 'ended'} with exit code {ended.get('exitCode')}{when}, started again; "
    return ""


def _containers(raw: Json) -> Iterator[Json]:
    status = raw.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _is_accelerator(resource: str) -> bool:
    return resource not in PLAIN_RESOURCES and not resource.startswith("hugepages-") and "/" in resource


def _whole(amount: object) -> int:
    text = str(amount)
    return int(text) if text.isdecimal() else 0
