"""One pass over all engines of a ModelDeployment: from what is there and what is wanted to actions. Called by the
controller's reconcile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.v1alpha1.scaling import RoleChangePolicy
from paceline.api.wire import Role
from paceline.policy.lifecycle.abandoned import plan_abandoned
from paceline.policy.lifecycle.actions import Action
from paceline.policy.lifecycle.observed import Pod, Workload
from paceline.policy.lifecycle.orders import Orders
from paceline.policy.lifecycle.removal import drain_steps, is_overdue, may_go, resize_steps
from paceline.policy.lifecycle.serving import serving_steps
from paceline.policy.lifecycle.sizes import Sizes, plan_sizes
from paceline.policy.lifecycle.view import GARBAGE_SECONDS, PoolView, group_by_template
from paceline.policy.resources import EngineChildren, HardwarePool

POLL_SECONDS: Final = 0.5
"""Time between two looks at a draining engine."""
NO_TEMPLATE: Final = "none"
"""What a pool that the spec does not name is to run."""


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
    orders: Orders | None = None,
) -> Plan:
    """One pass. ``counts`` are engines by role, ``now`` seconds since the epoch, ``idle`` the pods that drain or are to
    change their role and have nothing in flight, ``loads`` what a change of role would lose by pod name, ``orders``
    what goes beyond counts.
    """
    orders = orders or Orders(counts)
    views = _views(md, engines, counts, workloads, pods, idle, now)
    paces = _paces(views)
    abandoned = _abandoned(md, engines, workloads, pods, idle, now)
    budget = _Budget(md.spec.scaling.gpu_budget, {child.pool.name: child.pool for child in engines}, views, abandoned)
    limited: list[PoolView] = []
    actions: list[Action] = []
    for unlimited in views:
        view = replace(unlimited, limit=budget.limit(unlimited.name))
        sizes = plan_sizes(view, now, pace=paces.get(view.name), chosen=orders.leaving)
        budget.claim(view, sizes)
        limited.append(view)
        actions += drain_steps(view, sizes, now)
        actions += serving_steps(view, sizes.leaving, loads or {}, orders, now)
        actions += resize_steps(view, sizes, now)
    for view, sizes in zip(abandoned, plan_abandoned(abandoned, limited), strict=True):
        actions += drain_steps(view, sizes, now)
        actions += resize_steps(view, sizes, now)
    seen = (*limited, *abandoned)
    return Plan(seen, tuple(actions), _look_again(seen, now))


class _Budget:
    """Accelerators of the budget, by pool. A pool may use what the others neither hold, nor are owed, nor were just
    given. While engines of abandoned pools hold some, nothing is owed to anybody: the pools start what goes, in turn.
    """

    def __init__(
        self,
        accelerators: int | None,
        pools: Mapping[str, HardwarePool],
        views: Sequence[PoolView],
        abandoned: Sequence[PoolView],
    ) -> None:
        self._accelerators = accelerators
        self._pools = pools
        strangers = sum(group.usage for view in abandoned for group in view.groups)
        # What an engine of an abandoned pool holds is not written on it: as much as the largest of the spec, say.
        self._held = strangers * max((pool.accelerators for pool in pools.values()), default=0)
        self._claims = {
            view.name: max(sum(group.usage for group in view.groups), 0 if strangers else sum(view.wanted.values()))
            for view in views
        }

    def limit(self, pool: str) -> int:
        """Engines of ``pool`` that may exist at once. Without a budget, ``maxReplicas`` alone bounds them."""
        own = self._pools[pool]
        if self._accelerators is None or own.accelerators == 0:
            return own.max_replicas
        others = sum(engines * self._pools[name].accelerators for name, engines in self._claims.items() if name != pool)
        return max(0, self._accelerators - self._held - others) // own.accelerators

    def claim(self, view: PoolView, sizes: Sizes) -> None:
        """``view`` was planned: others must do without what it takes."""
        planned = sum(group.usage_at(sizes.keep.get(group.template, 0)) for group in view.groups)
        if view.current.workload is None:
            # Engines that are there without it are not among those that the new one will make.
            planned += min(len(view.current.live), sizes.keep.get(view.template, 0))
        self._claims[view.name] = max(self._claims[view.name], planned)


def _views(
    md: ModelDeployment,
    engines: Sequence[EngineChildren],
    counts: Mapping[Role, int],
    workloads: Sequence[Workload],
    pods: Sequence[Pod],
    idle: frozenset[str],
    now: float,
) -> tuple[PoolView, ...]:
    """All pools, before the budget bounds them."""
    heads = [pod for pod in pods if pod.component == labels.COMPONENT_ENGINE]
    return tuple(
        PoolView(
            name=child.pool.name,
            template=child.template_hash,
            wanted={bound.role: counts.get(bound.role, 0) for bound in child.pool.bounds},
            limit=child.pool.max_replicas,
            fixed_role=child.pool.fixed_role,
            ordered=child.pool.nodes > 1,
            start_deadline_seconds=md.spec.engine.start_deadline_seconds,
            drain_seconds=md.spec.engine.drain_seconds,
            groups=group_by_template(
                child.template_hash,
                tuple(workload for workload in workloads if workload.pool == child.pool.name),
                tuple(pod for pod in heads if pod.pool == child.pool.name),
                now,
            ),
            idle=idle,
            drain_first=md.spec.scaling.role_change_policy is RoleChangePolicy.DRAIN_FIRST,
        )
        for child in engines
    )


def _abandoned(
    md: ModelDeployment,
    engines: Sequence[EngineChildren],
    workloads: Sequence[Workload],
    pods: Sequence[Pod],
    idle: frozenset[str],
    now: float,
) -> tuple[PoolView, ...]:
    """Pools that have engines or a workload but no place in the spec."""
    heads = [pod for pod in pods if pod.component == labels.COMPONENT_ENGINE]
    # Routers are workloads too, but of no pool.
    names = {name for name in (*(pod.pool for pod in heads), *(workload.pool for workload in workloads)) if name}
    found = []
    for name in sorted(names - {child.pool.name for child in engines}):
        owned = tuple(workload for workload in workloads if workload.pool == name)
        found.append(
            PoolView(
                name=name,
                template=NO_TEMPLATE,
                wanted={},
                limit=0,
                fixed_role=None,
                ordered=any(not workload.kind.endswith("/Deployment") for workload in owned),
                start_deadline_seconds=md.spec.engine.start_deadline_seconds,
                drain_seconds=md.spec.engine.drain_seconds,
                groups=group_by_template(NO_TEMPLATE, owned, tuple(pod for pod in heads if pod.pool == name), now),
                idle=idle,
            )
        )
    return tuple(found)


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
    groups = [group for view in views for group in view.groups]
    times = [group.workload.created + GARBAGE_SECONDS - now for group in groups if group.workload and group.strays]
    for view in views:
        for pod in (pod for group in view.groups for pod in group.live):
            if pod.next_role is not None or (pod.asked_to_drain and not (pod.drained and may_go(pod, now))):
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
