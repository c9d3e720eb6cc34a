"""The record behind a decision, in figures: what was seen, forecast, demanded, bound, and turned down.

Called by the planner; :mod:`paceline.policy.scaling.words` says it in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paceline.api.wire import Role
from paceline.policy.scaling.decision import MAX_NOTES, Explanation, Limit, Rejected, Seen
from paceline.policy.scaling.needs import offered_load
from paceline.policy.scaling.sizing import Sizing, as_counts
from paceline.policy.scaling.supply import Pool
from paceline.policy.scaling.traffic import Traffic, attainment_with


def explain(
    sizing: Sizing,
    traffic: Traffic,
    pools: Sequence[Pool],
    engines: Mapping[Role, int],
    rejected: Sequence[Rejected],
    *,
    correction: float,
) -> Explanation:
    """Put it together. ``engines``: by role, as decided on."""
    held = planned = None
    have, planned_for = sum(pool.ready_of(Role.PREFILL) for pool in pools), engines.get(Role.PREFILL, 0)
    if have != planned_for and not sizing.settings.aggregated:
        held = attainment_with(traffic, have, correction=correction)
        planned = attainment_with(traffic, planned_for, correction=correction)
    return Explanation(
        seen=_seen(sizing, traffic, correction),
        outlook=traffic.outlook,
        demands=tuple(demand for need in sizing.far.values() for demand in need.demands)[:MAX_NOTES],
        near=as_counts(sizing.near_wanted),
        bound_by=bound_by(sizing),
        rejected=tuple(rejected[:MAX_NOTES]),
        attainment_if_held=held,
        attainment_planned=planned,
        feasible=traffic.feasible,
        absent=absent(pools),
    )


def absent(pools: Sequence[Pool]) -> tuple[str, ...]:
    """Names of the pods that did not become ready in time, the first few."""
    return tuple(engine.name for pool in pools for engine in pool.absent)[:MAX_NOTES]


def bound_by(sizing: Sizing) -> Limit:
    """What bound the result: for the role with the largest gap, or with most engines where there is none."""
    for role, engines in sizing.allowed.items():
        if engines < sizing.wanted[role]:
            return Limit.GPU_BUDGET
        if sizing.bounded[role] < sizing.far[role].engines:
            return Limit.MAX_REPLICAS
    limits = sizing.settings.pools
    above = [role for role in sizing.far if sizing.far[role].engines >= limits[role].min_engines]
    if not above or not any(sizing.far[role].engines for role in above):
        return Limit.MIN_REPLICAS
    return sizing.far[max(above, key=lambda role: sizing.far[role].engines)].limit


def shed_hint(sizing: Sizing, traffic: Traffic) -> float:
    """Share of the forecast prefill work that the allowed engines can't even do late."""
    role = Role.BOTH if sizing.settings.aggregated else Role.PREFILL
    load = offered_load(traffic.far[role], traffic.seconds)
    return max(0.0, 1 - sizing.allowed[role] / load) if load > 0 else 0.0


def _seen(sizing: Sizing, traffic: Traffic, correction: float) -> Seen:
    requests = traffic.requests
    observation = sizing.observation
    uncached = sorted(request.prompt - request.cached for request in requests)
    cached = sum(request.cached for request in requests)
    prompts = sum(request.prompt for request in requests)
    waiting = sum(engine.waiting_seconds for engine in observation.engines)
    return Seen(
        request_rate=len(requests) / traffic.seconds if traffic.seconds > 0 else 0.0,
        uncached_p50=uncached[len(uncached) // 2] if uncached else 0,
        uncached_p99=uncached[len(uncached) * 99 // 100] if uncached else 0,
        hit_rate=cached / prompts if prompts else 0.0,
        output_mean=traffic.outputs.mean,
        prefill_load=traffic.prefill_load,
        backlog_seconds=observation.queued_seconds + waiting,
        held=observation.queued_decode,
        attainment=observation.attainment.both if observation.attainment is not None else None,
        correction=correction,
    )
