"""The planner's own loop in virtual time: what routers would have counted in the simulator's cluster goes through
pages, observation and decision as in production, and the decisions are carried out there.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from paceline.api.conditions import Reason
from paceline.api.v1alpha1 import ModelDeployment, from_manifest
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.wire import EngineState, Late, Role
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.planner.measured import EngineFact
from paceline.planner.pages import EngineGauges, RouterPage
from paceline.planner.settings import scaling_settings
from paceline.planner.source import Blind, Reading
from paceline.policy.scaling.demand import TOKEN_BOUNDS
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cluster import Cluster, PodState, Targets
from paceline.simulator.policies.planner import carry_out
from paceline.simulator.router import RouterSettings
from paceline.simulator.settings import Objective, PodHabits, SimSettings
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.telemetry import Sample
from paceline.simulator.workload import Workload
from paceline.traces.record import Trace, TraceRequest
from tests.planner.pages import FakeRouter

PROFILE = "qwen3-32b-h200-tp2"
STATES = {
    PodState.STARTING: EngineState.STARTING,
    PodState.READY: EngineState.READY,
    PodState.CHANGING: EngineState.READY,
    PodState.DRAINING: EngineState.DRAINING,
}


def elastic(*, most: int = 8, least: int = 1, budget: int | None = None, **scaling: Any) -> ModelDeployment:
    """Engines of two GPUs, ``least`` to ``most`` of each role."""
    pool = {
        "minReplicas": least,
        "maxReplicas": most,
        "accelerator": {"product": "NVIDIA-H200", "count": 2},
    }
    limits = {} if budget is None else {"gpuBudget": budget}
    manifest = {
        "apiVersion": "paceline.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "elastic"},
        "spec": {
            "model": {"name": "Qwen/Qwen3-32B"},
            "engine": {"parallelism": {"tensor": 2}, "startDeadlineSeconds": 600},
            "slo": {"ttftMilliseconds": 2000, "itlMilliseconds": 25},
            "pools": {"prefill": dict(pool), "decode": dict(pool)},
            "scaling": {"scaleDownWindowPolicy": "Fixed", **limits, **scaling},
        },
    }
    return from_manifest(manifest, "elastic")


Shape = Callable[[float], float]


def traffic(
    seconds: float,
    *,
    rate: Shape,
    prompt: Shape = lambda _: 3000.0,
    answer: Shape = lambda _: 150.0,
    most: float = 40.0,
    seed: int = 1,
) -> Workload:
    """Poisson arrivals at ``rate(t)``, at most ``most`` a second; sizes vary by a third around their means."""
    rng = random.Random(seed)
    requests: list[TraceRequest] = []
    at = 0.0
    while (at := at + rng.expovariate(most)) < seconds:
        if rng.random() < rate(at) / most:
            sizes = (prompt(at) * rng.uniform(2 / 3, 4 / 3), answer(at) * rng.uniform(2 / 3, 4 / 3))
            requests.append(TraceRequest(at, max(1, round(sizes[0])), max(1, round(sizes[1]))))
    return Workload(Trace("made up", tuple(requests)))


@dataclass
class World:
    """One run. ``blind(t)``: why nothing can be seen at that time, or None."""

    md: ModelDeployment
    workload: Workload
    initial: Targets
    blind: Callable[[float], Reason | None] = lambda _: None
    pods: PodHabits = field(default_factory=lambda: PodHabits(start_p50_seconds=60.0, start_p95_seconds=90.0))
    steps: list[Step] = field(default_factory=list)
    counts: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, and ready engines of prefill and decode then."""

    name = "loop"

    def __post_init__(self) -> None:
        counts = {Role.PREFILL: self.initial.prefill, Role.DECODE: self.initial.decode}
        self.planner = DeploymentPlanner(self.md, counts)
        self._router = FakeRouter()
        self._pages: list[RouterPage] = []

    @property
    def interval_seconds(self) -> float | None:
        return float(self.md.spec.scaling.interval_seconds)

    def run(self) -> Run:
        scaling = scaling_settings(self.md)
        settings = SimSettings(
            profile=get_profile(PROFILE),
            gpus_per_engine=2,
            # Nobody is refused for being late: these are about engines, and who is missing was lost.
            router=RouterSettings(ttft_seconds=scaling.ttft_seconds, late=Late.SERVE),
            objective=Objective(ttft_seconds=scaling.ttft_seconds, itl_seconds=scaling.itl_seconds),
            pods=self.pods,
            bounds={role: (0, pool.max_engines) for role, pool in scaling.pools.items()},
            gpu_budget=scaling.gpu_budget or 2 * scaling.most_engines,
        )
        return Simulation(self.workload, self, settings).run()

    def decide(self, seen: Sequence[Sample], cluster: Cluster) -> None:
        for sample in seen:
            self._count(sample)
            self._router.engines = _gauges(cluster)
            self._router.queued = len(cluster.router.line)
            self._router.queued_decode = held = cluster.router.held
            self._router.queued_seconds = 0.0 if held else cluster.router.line.seconds
            self._pages.append(self._router.page(sample.at))
        del self._pages[:-2000]
        reason = self.blind(cluster.now)
        reading = Reading(pages={"router": self._pages})
        if reason is not None:
            reading = Reading(blind=Blind(reason, "the test says so"))
        step = self.planner.look(reading, _facts(cluster), ["router"], now=cluster.now)
        self.steps.append(step)
        there = [pod.role for pod in cluster.pods.values() if pod.state in (PodState.READY, PodState.CHANGING)]
        self.counts.append((cluster.now, there.count(Role.PREFILL), there.count(Role.DECODE)))
        known = {f"engine-{number}" for number in cluster.pods}
        drains = tuple(drain for drain in step.decision.drains if drain.engine in known)
        if step.blind is None and self.planner.mode is ScalingMode.AUTO:
            carry_out(replace(step.decision, drains=drains), cluster)

    def _count(self, sample: Sample) -> None:
        router = self._router
        for cell in sample.arrived:
            router.arrive(cell.uncached, cell.cached, times=cell.count)
        for done in sample.completed:
            bucket = bisect_left(TOKEN_BOUNDS, done.prompt)
            router.answers[bucket] += done.count
            router.answer_prompts[bucket] += done.prompt * done.count
            router.answer_tokens[bucket] += done.outputs
        got = sample.attained
        router.first = [router.first[0] + got.ttft, router.first[1] + got.begun]
        router.ended = [router.ended[0] + got.itl, router.ended[1] + got.both, router.ended[2] + got.ended]

    def at(self, seconds: float) -> tuple[int, int]:
        """Ready prefill and decode engines at a time."""
        found = [(prefill, decode) for when, prefill, decode in self.counts if when <= seconds]
        return found[-1]

    def attained(self, run: Run, begin: float, end: float) -> float:
        """Share of the requests that arrived between two times and met both limits."""
        arrivals = run.workload.arrivals
        there = (arrivals >= begin) & (arrivals < end)
        objective = run.settings.objective
        met = (run.score.ttft <= objective.ttft_seconds) & (run.score.itl <= objective.itl_seconds)
        return float(met[there].mean())


def _gauges(cluster: Cluster) -> dict[str, EngineGauges]:
    found = {}
    for pod in cluster.pods.values():
        if pod.engine is not None:
            pod.engine.settle()
            usage = min(1.0, max(0.0, pod.engine.used / pod.engine.capacity))
            found[f"engine-{pod.number}"] = EngineGauges(in_flight=pod.engine.running, kv_usage=usage)
    return found


def _facts(cluster: Cluster) -> list[EngineFact]:
    return [
        EngineFact(f"engine-{pod.number}", pod.role, STATES[pod.state], pod.created) for pod in cluster.pods.values()
    ]
