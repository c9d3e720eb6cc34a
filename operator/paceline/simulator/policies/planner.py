"""``planner``: Paceline's own, :func:`paceline.policy.scaling.planner.plan`, the function that decides in production.

What is here is what the planner's loop does there: histograms and pods in, an observation made of them, and the
decision carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from paceline.api.wire import EngineState, Role
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.observation import (
    ArrivalInterval,
    Attainment,
    CompletionInterval,
    Counts,
    EngineLoad,
    Measured,
    Observation,
    PolicyState,
)
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.settings import EngineModels, PoolSettings, ScalingSettings
from paceline.policy.waiting import age_bound_seconds
from paceline.simulator.cluster import Cluster, Pod, PodState, Targets
from paceline.simulator.policies.base import Context, Policy
from paceline.simulator.score import Attained
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample

LEAST_STARTS: Final = 5
"""Starts that must have been seen before their times are believed."""
REMEMBERED_STARTS: Final = 50
_STATES: Final = {
    PodState.STARTING: EngineState.STARTING,
    PodState.READY: EngineState.READY,
    PodState.CHANGING: EngineState.READY,
    PodState.DRAINING: EngineState.DRAINING,
}


class PlannerPolicy:
    """Runs the planner at its interval, as its loop does."""

    name = "planner"

    def __init__(self, initial: Targets, settings: SimSettings) -> None:
        self.initial = initial
        self.interval_seconds = settings.planner_interval_seconds
        self._settings = settings.scaling or default_scaling(settings)
        self._models = EngineModels.same(settings.profile)
        self._state = PolicyState()
        self._window: deque[Sample] = deque()
        self.decision: Decision | None = None
        """The last one."""

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        """See :class:`Policy`."""
        self._window.extend(sample for sample in seen if sample.at > sample.since)
        while self._window and self._window[0].at <= cluster.now - self._settings.demand_window_seconds:
            self._window.popleft()
        self.decision, self._state = plan(self.observe(cluster), self._state, self._settings, self._models)
        carry_out(self.decision, cluster)

    def observe(self, cluster: Cluster) -> Observation:
        """What the planner is shown."""
        return Observation(
            now=cluster.now,
            arrivals=tuple(ArrivalInterval(start=one.since, end=one.at, cells=one.arrived) for one in self._window),
            completions=tuple(
                CompletionInterval(start=one.since, end=one.at, cells=one.completed) for one in self._window
            ),
            engines=tuple(_load(pod, cluster, self._hit_rate()) for pod in cluster.pods.values()),
            queued_requests=len(cluster.router.line),
            queued_decode=cluster.router.held,
            queued_seconds=0.0 if cluster.router.held else cluster.router.line.seconds,
            measured=_measured(cluster),
            attainment=_attainment([one.attained for one in self._window]),
        )

    def _hit_rate(self) -> float:
        """Share of the prompt tokens of the window that were expected in a cache."""
        if len(self._window) < 2:
            return 0.0
        first, last = self._window[0], self._window[-1]
        prompts = last.prompt_tokens - first.prompt_tokens
        return 1 - (last.uncached_tokens - first.uncached_tokens) / prompts if prompts else 0.0


def default_scaling(settings: SimSettings) -> ScalingSettings:
    """The planner's defaults, with the objective and the bounds of the simulation."""
    pools = {
        role: PoolSettings(min_engines=least, max_engines=most, gpus_per_engine=settings.gpus_per_engine)
        for role, (least, most) in settings.bounds.items()
    }
    return ScalingSettings(
        ttft_seconds=settings.objective.ttft_seconds,
        itl_seconds=settings.objective.itl_seconds,
        target=settings.objective.target,
        prefill=pools.get(Role.PREFILL),
        decode=pools.get(Role.DECODE),
        both=pools.get(Role.BOTH),
        flexible=settings.flexible,
        gpu_budget=settings.gpu_budget,
        start_deadline_seconds=settings.pods.start_deadline_seconds,
        hold_for_itl=settings.router.hold_for_itl,
        late_age_bound_seconds=age_bound_seconds(settings.router.age_bound_seconds, settings.router.max_queue_seconds),
    )


def carry_out(decision: Decision, cluster: Cluster) -> None:
    """Do what was decided: what the actuator does through the Kubernetes API."""
    cluster.prefer(_by_role(decision.engines))
    for flip in decision.flips:
        cluster.flip(cluster.pods[_number(flip.engine)], flip.after)
    for drain in decision.drains:
        cluster.drain(cluster.pods[_number(drain.engine)])
    for start in decision.starts:
        for _ in range(start.count):
            cluster.start(start.role)


def _by_role(counts: Counts) -> dict[Role, int]:
    return {role: counts.of(role) for role in Role if counts.of(role)}


def _load(pod: Pod, cluster: Cluster, hit_rate: float) -> EngineLoad:
    engine = pod.engine
    age = cluster.now - pod.since
    if engine is None:
        return EngineLoad(name=_name(pod), role=pod.role, state=_STATES[pod.state], age_seconds=age)
    engine.settle()
    return EngineLoad(
        name=_name(pod),
        role=pod.role,
        state=_STATES[pod.state],
        changing=pod.state is PodState.CHANGING,
        age_seconds=age,
        running=engine.running,
        waiting=engine.waiting,
        waiting_seconds=engine.queued_seconds,
        kv_usage=min(1.0, max(0.0, engine.used / engine.capacity)),
        # Which cached blocks will be used again nobody knows; as many as were, of late.
        reusable_tokens=round(hit_rate * engine.cache.on_accelerator * cluster.router.block_size),
    )


def _attainment(parts: Sequence[Attained]) -> Attainment | None:
    begun, ended = sum(part.begun for part in parts), sum(part.ended for part in parts)
    if not begun or not ended:
        return None
    return Attainment(
        requests=begun,
        ttft=sum(part.ttft for part in parts) / begun,
        itl=sum(part.itl for part in parts) / ended,
        both=sum(part.both for part in parts) / ended,
    )


def _measured(cluster: Cluster) -> Measured:
    flip = cluster.flip_seconds
    recent = sorted(cluster.start_seconds[-REMEMBERED_STARTS:])
    if len(recent) < LEAST_STARTS:
        return Measured(flip_seconds=flip)
    return Measured(
        start_p50_seconds=recent[len(recent) // 2],
        start_p95_seconds=recent[min(len(recent) - 1, int(0.95 * len(recent)))],
        flip_seconds=flip,
    )


def _name(pod: Pod) -> str:
    return f"engine-{pod.number}"


def _number(name: str) -> int:
    return int(name.removeprefix("engine-"))


def candidates(context: Context) -> Iterator[Policy]:
    """One: it is to work as it is, without tuning."""
    yield PlannerPolicy(context.initial, context.settings)
