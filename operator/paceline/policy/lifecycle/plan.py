"""One pass over all engines of a ModelDeployment: from what is there and what is wanted to actions. Called by the
controller's reconcile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import Action
from paceline.policy.lifecycle.observed import Pod, Workload
from paceline.policy.lifecycle.removal import drain_steps, is_overdue, resize_steps
from paceline.policy.lifecycle.serving import serving_steps
from paceline.policy.lifecycle.sizes import plan_sizes
from paceline.policy.lifecycle.view import PoolView, group_by_template
from paceline.policy.resources import EngineChildren, HardwarePool

POLL_SECONDS: Final = 0.5
"""Time between two looks at a draining engine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what was seen on the way."""

    views: tuple[PoolView, ...]
    actions: tuple[Action, ...]
    look_again_seconds: float | None
    """When time alone will have changed something; None when only an event can."""


def default_counts(pools: Sequence[HardwarePool]) -> dict[Role, int]:
    """Engines by role where nobody sizes them: the minimum of each."""
    return {bound.role: bound.minimum for pool in pools for bound in pool.bounds}


def plan_engines(
    md: ModelDeployment,
    engines: Sequence[EngineChildren],
    counts: Mapping[Role, int],
    *,
    workloads: Sequence[Workload],
    pods: Sequence[Pod],
    now: float,
    idle: frozenset[str] = frozenset(),
    loads: Mapping[str, float] | None = None,
) -> Plan:
    """One pass. ``counts`` are engines by role, ``now`` seconds since the epoch, ``idle`` the draining pods that have
    nothing in flight, ``loads`` what a change of role would lose by pod name.
    """
    views = _views(md, engines, counts, workloads, pods, idle)
    paces = _paces(views)
    actions: list[Action] = []
    for view in views:
        sizes = plan_sizes(view, now, pace=paces.get(view.name))
        actions += drain_steps(view, sizes, now)
        actions += serving_steps(view, sizes.leaving, loads or {})
        actions += resize_steps(view, sizes)
    return Plan(views, tuple(actions), _look_again(views, now))


def _views(
    md: ModelDeployment,
    engines: Sequence[EngineChildren],
    counts: Mapping[Role, int],
    workloads: Sequence[Workload],
    pods: Sequence[Pod],
    idle: frozenset[str],
) -> tuple[PoolView, ...]:
    heads = [pod for pod in pods if pod.component == labels.COMPONENT_ENGINE]
    groups = {
        child.pool.name: group_by_template(
            child.template_hash,
            tuple(workload for workload in workloads if workload.pool == child.pool.name),
            tuple(pod for pod in heads if pod.pool == child.pool.name),
        )
        for child in engines
    }
    wanted = {
        child.pool.name: {bound.role: counts.get(bound.role, 0) for bound in child.pool.bounds} for child in engines
    }
    # A pool may use what the others neither hold nor are owed.
    claims = {
        name: max(sum(group.usage for group in groups[name]), sum(wanted[name].values())) * child.pool.accelerators
        for name, child in ((child.pool.name, child) for child in engines)
    }
    return tuple(
        PoolView(
            name=child.pool.name,
            template=child.template_hash,
            wanted=wanted[child.pool.name],
            limit=_limit(
                child.pool,
                md.spec.scaling.gpu_budget,
                sum(claim for name, claim in claims.items() if name != child.pool.name),
            ),
            fixed_role=child.pool.fixed_role,
            ordered=child.pool.nodes > 1,
            start_deadline_seconds=md.spec.engine.start_deadline_seconds,
            drain_seconds=md.spec.engine.drain_seconds,
            groups=groups[child.pool.name],
            idle=idle,
        )
        for child in engines
    )


def _limit(pool: HardwarePool, budget: int | None, claimed: int) -> int:
    """Engines of ``pool`` that may exist at once. Without a budget, ``maxReplicas`` alone bounds them."""
    if budget is None or pool.accelerators == 0:
        return pool.max_replicas
    return max(0, budget - claimed) // pool.accelerators


def _paces(views: Sequence[PoolView]) -> dict[str, int]:
    """Engines of the new template that each pool may have, so that pools with fixed roles are replaced in step: an
    engine of the new revision is of little use while the other role has none.
    """
    rolling = [view for view in views if view.rolling and view.total]
    if len(rolling) < 2:
        return {}
    least = min(len(view.current.ready) / view.total for view in rolling)
    return {view.name: int(least * view.total) + view.step for view in rolling}


def _look_again(views: Sequence[PoolView], now: float) -> float | None:
    times: list[float] = []
    for view in views:
        for pod in (pod for group in view.groups for pod in group.live):
            if pod.asked_to_drain and not pod.drained:
                times.append(POLL_SECONDS)
            elif view.never_ready(pod) and (left := pod.created + view.start_deadline_seconds - now) > 0:
                times.append(left)
    return min(times, default=None)


def draining(views: Sequence[PoolView], now: float) -> tuple[tuple[Pod, bool], ...]:
    """Pods on their way out, and whether each had its time."""
    return tuple(
        (pod, is_overdue(view, pod, now))
        for view in views
        for group in view.groups
        for pod in group.live
        if pod.asked_to_drain
    )
