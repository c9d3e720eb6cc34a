"""From what was observed to ``status``: counts, conditions, history. Pure; the controller writes the result when it
differs from what stands there.

Messages hold nothing that changes by itself (no ages, no counters that run), or every pass would write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from paceline.api.conditions import ConditionType, Finding, Reason, merge
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment, ModelDeploymentStatus
from paceline.api.v1alpha1.status import (
    HISTORY_LENGTH,
    EngineCounts,
    Roles,
    RoleStatus,
    ScalingDecision,
    ScalingLimit,
    ScalingStatus,
    SloStatus,
)
from paceline.api.wire import Role
from paceline.policy.lifecycle.observed import Pod, Trouble
from paceline.policy.lifecycle.plan import draining
from paceline.policy.lifecycle.view import PoolView
from paceline.policy.resources.router import engine_selector

NAMED_AT_MOST: Final = 3
"""Pods that a message names."""
COMPLETE: Final = frozenset({Reason.AS_DESIRED, Reason.KIND_MISSING})
"""Reasons of Progressing with which everything that can be there is there."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """The routers: what is asked for, and what there is."""

    desired: int
    ready: int
    trouble: Trouble | None
    endpoint: str


@dataclass(frozen=True, slots=True)
class ScalingView:
    """What the planner has to say."""

    metrics: Finding
    """Whether it sees what it decides on."""
    limited: Finding | None = None
    """What keeps it from giving what is needed; None: what the budget allows."""
    recommended: EngineCounts | None = None
    decisions: tuple[ScalingDecision, ...] = ()
    """The last ones, newest first."""
    slo: SloStatus | None = None
    wellness: Finding | None = None
    """Whether an engine stands out among its siblings; None where nobody has looked."""
    decides: bool = True
    """False where the spec alone says how many engines there are."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a status is made from, besides the resource itself."""

    views: tuple[PoolView, ...]
    router: RouterView
    revision: str
    engine_trouble: tuple[Trouble, ...]
    """What keeps engines or their workloads from being ready."""
    problems: tuple[Finding, ...]
    """What the pass itself ran into. They take the place of what would have been found."""
    missing_kinds: tuple[str, ...]
    limited: bool
    """Whether the budget allows fewer engines than are wanted."""
    scaling: ScalingView | None = None
    """What the planner says; None where nobody plans, or has not looked yet."""


def make_status(
    md: ModelDeployment, previous: ModelDeploymentStatus, seen: Seen, *, generation: int, now: datetime
) -> ModelDeploymentStatus:
    """The status after a pass. ``generation`` is the one of the resource as it stands, even if its spec is refused."""
    roles = _roles(seen.views)
    counts = {role: roles[role].desired for role in roles}
    findings = _findings(seen, roles, now.timestamp())
    return ModelDeploymentStatus(
        observed_generation=generation,
        conditions=merge(previous.conditions, findings, now=now, generation=generation),
        endpoint=seen.router.endpoint,
        revision=seen.revision,
        selector=engine_selector(md),
        engines=_of(sum(role.ready for role in roles.values()), sum(counts.values())),
        ratio=_ratio(roles),
        roles=Roles(prefill=roles.get(Role.PREFILL), decode=roles.get(Role.DECODE), both=roles.get(Role.BOTH)),
        slo=previous.slo if seen.scaling is None else seen.scaling.slo or previous.slo,
        scaling=_planned(previous, seen.scaling)
        if seen.scaling is not None and seen.scaling.decides
        else _scaling(previous, counts, now),
    )


def _of(ready: int, desired: int) -> str:
    return f"{ready}/{desired}"


def _roles(views: Sequence[PoolView]) -> dict[Role, RoleStatus]:
    """Counts by role. An engine that starts has no role yet where roles change: it is counted where one is missing.

    An engine that serves both stands in for each role that lacks engines of its own, so that a small fleet in the
    middle of a roll-out does not look as if nothing served.
    """
    result: dict[Role, RoleStatus] = {}
    for view in views:
        pods = [pod for group in view.groups for pod in group.live]
        starting = sum(not pod.ready for pod in pods if not pod.asked_to_drain)
        for role, desired in view.wanted.items():
            ready = sum(pod.ready and not pod.asked_to_drain and pod.role is role for pod in pods)
            waiting = min(starting, max(0, desired - ready))
            starting -= waiting
            result[role] = RoleStatus(
                desired=desired,
                ready=ready,
                starting=waiting,
                draining=sum(pod.asked_to_drain and pod.role is role for pod in pods),
                summary=_of(ready, desired),
            )
        both = sum(pod.ready and not pod.asked_to_drain and pod.role is Role.BOTH for pod in pods)
        if both and Role.BOTH not in view.wanted:
            result[Role.BOTH] = RoleStatus(ready=both, summary=_of(both, 0))
    return result


def _ratio(roles: Mapping[Role, RoleStatus]) -> str | None:
    if Role.PREFILL not in roles or Role.DECODE not in roles:
        return None
    return f"{roles[Role.PREFILL].ready}:{roles[Role.DECODE].ready}"


def new_decisions(previous: ModelDeploymentStatus, view: ScalingView) -> tuple[ScalingDecision, ...]:
    """Decisions that the status does not hold yet, newest first."""
    known = previous.scaling.history if previous.scaling is not None else ()
    return tuple(one for one in view.decisions if one not in known and (not known or one.time >= known[0].time))


def _planned(previous: ModelDeploymentStatus, view: ScalingView) -> ScalingStatus:
    earlier = previous.scaling or ScalingStatus()
    history = (*new_decisions(previous, view), *earlier.history)[:HISTORY_LENGTH]
    return ScalingStatus(recommended=view.recommended or earlier.recommended, history=history)


def _scaling(previous: ModelDeploymentStatus, counts: Mapping[Role, int], now: datetime) -> ScalingStatus | None:
    before, after = _desired(previous.roles), EngineCounts.by_role(counts)
    if before is None or before == after:
        return previous.scaling
    decision = ScalingDecision(
        time=now.replace(microsecond=0),
        before=before,
        after=after,
        limit=ScalingLimit.MIN_REPLICAS,
        reason="The spec asks for other numbers of engines.",
    )
    earlier = previous.scaling or ScalingStatus()
    return ScalingStatus(recommended=earlier.recommended, history=(decision, *earlier.history)[:HISTORY_LENGTH])


def _desired(roles: Roles | None) -> EngineCounts | None:
    if roles is None:
        return None
    return EngineCounts(
        prefill=roles.prefill.desired if roles.prefill else 0,
        decode=roles.decode.desired if roles.decode else 0,
        both=roles.both.desired if roles.both else 0,
    )


def _findings(seen: Seen, roles: Mapping[Role, RoleStatus], now: float) -> list[Finding]:
    prefill = _role_finding(ConditionType.PREFILL_READY, Role.PREFILL, roles, seen, now)
    decode = _role_finding(ConditionType.DECODE_READY, Role.DECODE, roles, seen, now)
    router = _router_finding(seen.router)
    progressing = _progressing(seen, (prefill, decode, router), now)
    found = {
        finding.type: finding
        for finding in (
            Finding(ConditionType.ACCEPTED, ConditionStatus.TRUE, Reason.VALID),
            prefill,
            decode,
            router,
            _available(seen, roles),
            progressing,
            _limited(seen),
            *(() if seen.scaling is None else (seen.scaling.metrics,)),
            *(() if seen.scaling is None or seen.scaling.wellness is None else (seen.scaling.wellness,)),
            *seen.problems,
        )
    }
    found[ConditionType.READY] = _ready(found, seen.problems)
    return list(found.values())


def _role_finding(kind: ConditionType, role: Role, roles: Mapping[Role, RoleStatus], seen: Seen, now: float) -> Finding:
    # Without roles of its own, every engine computes prompts and tokens.
    role = role if role in roles else Role.BOTH
    status = roles.get(role, RoleStatus())
    if status.ready >= status.desired:
        if status.desired == 0:
            return Finding(kind, ConditionStatus.TRUE, Reason.SCALED_TO_ZERO)
        return Finding(kind, ConditionStatus.TRUE, Reason.AS_DESIRED)
    named = "" if role is Role.BOTH else f"{role} "
    counted = f"{status.ready} of {status.desired} {named}engines are ready"
    for trouble in seen.engine_trouble:
        return Finding(kind, ConditionStatus.FALSE, trouble.reason, f"{counted}. {trouble.message}")
    late = [pod for view in seen.views if role in view.wanted for pod in view.overdue(now)]
    if late:
        reason = Reason.START_DEADLINE_EXCEEDED
        return Finding(kind, ConditionStatus.FALSE, reason, f"{counted}; {_names(late)} did not get ready in time.")
    if any(view.rolling for view in seen.views):
        return Finding(kind, ConditionStatus.FALSE, Reason.ROLLING_OUT, f"{counted}; engines are being replaced.")
    if status.starting:
        return Finding(kind, ConditionStatus.FALSE, Reason.ENGINES_STARTING, f"{counted}.")
    if status.draining:
        return Finding(kind, ConditionStatus.FALSE, Reason.ENGINES_DRAINING, f"{counted}; others finish their work.")
    return Finding(kind, ConditionStatus.FALSE, Reason.ENGINES_MISSING, f"{counted}.")


def _router_finding(router: RouterView) -> Finding:
    if router.ready >= router.desired:
        return Finding(ConditionType.ROUTER_READY, ConditionStatus.TRUE, Reason.AS_DESIRED)
    counted = f"{router.ready} of {router.desired} routers are ready."
    if router.trouble is not None:
        message = f"{counted} {router.trouble.message}"
        return Finding(ConditionType.ROUTER_READY, ConditionStatus.FALSE, router.trouble.reason, message)
    return Finding(ConditionType.ROUTER_READY, ConditionStatus.FALSE, Reason.ROUTERS_STARTING, counted)


def _available(seen: Seen, roles: Mapping[Role, RoleStatus]) -> Finding:
    """A request can do without a prefill engine, never without a router and one that generates tokens."""
    kind = ConditionType.AVAILABLE
    if seen.router.ready == 0:
        return Finding(kind, ConditionStatus.FALSE, Reason.ROUTERS_STARTING, "No router is ready.")
    serving = sum(status.ready for role, status in roles.items() if role is not Role.PREFILL)
    if serving == 0:
        wanted = sum(status.desired for status in roles.values())
        if wanted == 0:
            return Finding(kind, ConditionStatus.FALSE, Reason.SCALED_TO_ZERO, "No engine is wanted.")
        return Finding(kind, ConditionStatus.FALSE, Reason.ENGINES_STARTING, "No engine generates tokens yet.")
    return Finding(kind, ConditionStatus.TRUE, Reason.AS_DESIRED)


def _progressing(seen: Seen, parts: Sequence[Finding], now: float) -> Finding:
    kind = ConditionType.PROGRESSING
    stalled = [view for view in seen.views if view.stalled(now)]
    if stalled:
        late = [pod for view in stalled for pod in view.overdue(now) if pod.template == view.template]
        message = (
            f"Engines of the new revision did not get ready within {stalled[0].start_deadline_seconds} s "
            f"({_names(late)}); the roll-out has stopped, and the old ones keep serving. Change the spec to go on "
            f"or back.{_because(late, seen)}"
        )
        return Finding(kind, ConditionStatus.FALSE, Reason.ROLLOUT_STALLED, message)
    late = [pod for view in seen.views for pod in view.overdue(now)]
    if late:
        seconds = seen.views[0].start_deadline_seconds
        message = f"Engines did not get ready within {seconds} s: {_names(late)}.{_because(late, seen)}"
        return Finding(kind, ConditionStatus.FALSE, Reason.START_DEADLINE_EXCEEDED, message)
    overdue = [pod for pod, over in draining(seen.views, now) if over]
    if overdue:
        message = f"Engines had work in flight at the end of their drain time: {_names(overdue)}."
        return Finding(kind, ConditionStatus.TRUE, Reason.DRAIN_DEADLINE_EXCEEDED, message)
    rolling = [view.name for view in seen.views if view.rolling]
    if rolling:
        message = f"Engines are being replaced in {', '.join(rolling)}."
        return Finding(kind, ConditionStatus.TRUE, Reason.ROLLING_OUT, message)
    for part in parts:
        if part.status is not ConditionStatus.TRUE:
            return Finding(kind, ConditionStatus.TRUE, part.reason, part.message)
    if draining(seen.views, now):
        return Finding(kind, ConditionStatus.TRUE, Reason.ENGINES_DRAINING, "Engines that are to go finish their work.")
    if seen.missing_kinds:
        message = f"The cluster has no {', '.join(seen.missing_kinds)}; these children are left out."
        return Finding(kind, ConditionStatus.FALSE, Reason.KIND_MISSING, message)
    return Finding(kind, ConditionStatus.FALSE, Reason.AS_DESIRED)


def _because(pods: Sequence[Pod], seen: Seen) -> str:
    own = [pod.trouble for pod in pods if pod.trouble is not None]
    for trouble in (*own, *seen.engine_trouble):
        return f" {trouble.reason}: {trouble.message}"
    return ""


def _names(pods: Sequence[Pod]) -> str:
    names = sorted(pod.name for pod in pods)
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _limited(seen: Seen) -> Finding:
    if seen.scaling is not None and seen.scaling.limited is not None:
        return seen.scaling.limited
    if seen.limited:
        message = "spec.scaling.gpuBudget allows fewer engines than are wanted."
        return Finding(ConditionType.SCALING_LIMITED, ConditionStatus.TRUE, Reason.GPU_BUDGET_REACHED, message)
    return Finding(ConditionType.SCALING_LIMITED, ConditionStatus.FALSE, Reason.WITHIN_LIMITS)


def _ready(found: Mapping[ConditionType, Finding], problems: Sequence[Finding]) -> Finding:
    """The first of these that is not as it should be is what Ready says."""
    parts = [
        found[ConditionType.ACCEPTED],
        # What the operator itself ran into explains the rest.
        *problems,
        found[ConditionType.PREFILL_READY],
        found[ConditionType.DECODE_READY],
        found[ConditionType.ROUTER_READY],
        found[ConditionType.AVAILABLE],
    ]
    for part in parts:
        if part.status is not ConditionStatus.TRUE:
            return Finding(ConditionType.READY, ConditionStatus.FALSE, part.reason, part.message)
    progressing = found[ConditionType.PROGRESSING]
    if progressing.reason not in COMPLETE:
        return Finding(ConditionType.READY, ConditionStatus.FALSE, progressing.reason, progressing.message)
    return Finding(ConditionType.READY, ConditionStatus.TRUE, Reason.AS_DESIRED)
