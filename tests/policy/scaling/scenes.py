"""Observations and a toy cluster for the tests of the planner: no simulator, no clock, only what a decision needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.api.wire import EngineState, Role
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.observation import (
    ArrivalCell,
    ArrivalInterval,
    Attainment,
    CompletionCell,
    CompletionInterval,
    EngineLoad,
    Measured,
    Observation,
    PolicyState,
)
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.profiles import get_profile
from paceline.policy.scaling.settings import EngineModels, PoolSettings, ScalingSettings

PROFILE = get_profile("qwen3-32b-h200-tp2")
MODELS = EngineModels.same(PROFILE)
SCRAPE = 5.0
PERIOD = 15.0


def settings(**changes: object) -> ScalingSettings:
    """Two flexible roles of 1 to 20 engines with 2 GPUs each."""
    values: dict[str, object] = {
        "ttft_seconds": 2.0,
        "itl_seconds": 0.025,
        "prefill": PoolSettings(max_engines=20, gpus_per_engine=2),
        "decode": PoolSettings(max_engines=20, gpus_per_engine=2),
        "gpu_budget": 80,
    }
    return ScalingSettings(**{**values, **changes})  # type: ignore[arg-type] # the tests' own spelling


def intervals(
    counts: Sequence[int], *, uncached: int = 3000, cached: int = 0, start: float = 0.0
) -> tuple[ArrivalInterval, ...]:
    """One interval of 5 s for each count, all requests alike."""
    return tuple(
        ArrivalInterval(
            start=start + SCRAPE * index,
            end=start + SCRAPE * (index + 1),
            cells=(ArrivalCell(uncached=uncached, cached=cached, count=count),) if count else (),
        )
        for index, count in enumerate(counts)
    )


def completions(counts: Sequence[int], *, prompt: int = 3000, output: int = 300) -> tuple[CompletionInterval, ...]:
    """The same for completed requests."""
    return tuple(
        CompletionInterval(
            start=SCRAPE * index,
            end=SCRAPE * (index + 1),
            cells=(CompletionCell(prompt=prompt, count=count, outputs=count * output),) if count else (),
        )
        for index, count in enumerate(counts)
    )


def engines(prefill: int, decode: int, **changes: object) -> tuple[EngineLoad, ...]:
    """Ready engines: p0, p1, ... and d0, d1, ..."""
    names = [(f"p{index}", Role.PREFILL) for index in range(prefill)]
    names += [(f"d{index}", Role.DECODE) for index in range(decode)]
    return tuple(
        EngineLoad(name=name, role=role, state=EngineState.READY, **changes)  # type: ignore[arg-type] # as above
        for name, role in names
    )


def observation(
    rate: float, *, seconds: float = 300.0, prefill: int = 3, decode: int = 2, **changes: object
) -> Observation:
    """Steady traffic of ``rate`` requests a second."""
    counts = [round(rate * SCRAPE)] * int(seconds / SCRAPE)
    values: dict[str, object] = {
        "now": seconds,
        "arrivals": intervals(counts),
        "completions": completions(counts),
        "engines": engines(prefill, decode),
    }
    return Observation(**{**values, **changes})  # type: ignore[arg-type] # the tests' own spelling


Load = Callable[[float], tuple[float, int, int]]
"""(requests a second, prompt, output) at a time."""


@dataclass
class Pod:
    role: Role | None
    ready_at: float
    gone_at: float | None = None
    since: float = 0.0


@dataclass
class ToyCluster:
    """Pods that start and drain in a fixed time, and the planner that decides on them."""

    settings: ScalingSettings
    models: EngineModels = MODELS
    start_seconds: float = 60.0
    drain_seconds: float = 30.0
    now: float = 0.0
    made: int = 0
    pods: dict[str, Pod] = field(default_factory=dict)
    state: PolicyState = field(default_factory=PolicyState)
    seen: list[Observation] = field(default_factory=list)
    decided: list[Decision] = field(default_factory=list)
    states: list[PolicyState] = field(default_factory=list)
    """After each decision."""
    most_gpus: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    _arrivals: list[ArrivalInterval] = field(default_factory=list)
    _completions: list[CompletionInterval] = field(default_factory=list)

    def add(self, role: Role | None, *, ready: bool = True) -> None:
        self.pods[f"e{self.made}"] = Pod(role, self.now if ready else self.now + self.start_seconds, since=self.now)
        self.made += 1

    def run(self, load: Load, seconds: float, *, poisson: bool = False, attained: float | None = None) -> None:
        """``attained``: share of the requests that the routers say met the objective; None if they don't say."""
        until = self.now + seconds
        while self.now < until:
            for _ in range(round(PERIOD / SCRAPE)):
                self._scrape(*load(self.now), poisson=poisson)
            self.step(**({} if attained is None else {"attainment": self._attainment(attained)}))

    def _attainment(self, share: float) -> Attainment:
        requests = sum(cell.count for interval in self._arrivals[-60:] for cell in interval.cells)
        return Attainment(requests=requests, ttft=share, itl=share, both=share)

    def _scrape(self, rate: float, prompt: int, output: int, *, poisson: bool) -> None:
        count = round(rate * SCRAPE)
        if poisson and count:
            count = sum(self.rng.random() < 0.5 for _ in range(2 * count))
        cells = (ArrivalCell(uncached=prompt, cached=0, count=count),) if count else ()
        ended = (CompletionCell(prompt=prompt, count=count, outputs=count * output),) if count else ()
        self._arrivals.append(ArrivalInterval(start=self.now, end=self.now + SCRAPE, cells=cells))
        self._completions.append(CompletionInterval(start=self.now, end=self.now + SCRAPE, cells=ended))
        self.now += SCRAPE

    def step(self, **changes: object) -> Decision:
        self.pods = {name: pod for name, pod in self.pods.items() if pod.gone_at is None or pod.gone_at > self.now}
        values: dict[str, object] = {
            "now": self.now,
            "arrivals": tuple(self._arrivals[-60:]),
            "completions": tuple(self._completions[-60:]),
            "engines": tuple(self._load(name, pod) for name, pod in self.pods.items()),
            "measured": Measured(start_p50_seconds=self.start_seconds, start_p95_seconds=self.start_seconds),
        }
        seen = Observation(**{**values, **changes})  # type: ignore[arg-type] # the tests' own spelling
        decision, self.state = plan(seen, self.state, self.settings, self.models)
        self.seen.append(seen)
        self.decided.append(decision)
        self.states.append(self.state)
        self._carry_out(decision)
        return decision

    def _load(self, name: str, pod: Pod) -> EngineLoad:
        state = EngineState.DRAINING if pod.gone_at else EngineState.READY
        if pod.ready_at > self.now:
            state = EngineState.STARTING
        elif pod.role is None:
            wanted = self.decided[-1].engines
            have = [other.role for other in self.pods.values() if not other.gone_at]
            pod.role = max(self.settings.pools, key=lambda role: wanted.of(role) - have.count(role))
        return EngineLoad(name=name, role=pod.role, state=state, age_seconds=self.now - pod.since)

    def _carry_out(self, decision: Decision) -> None:
        for flip in decision.flips:
            assert self.pods[flip.engine].role is flip.before
            self.pods[flip.engine].role = flip.after
        for drain in decision.drains:
            pod = self.pods[drain.engine]
            assert pod.gone_at is None
            pod.gone_at = self.now if pod.ready_at > self.now else self.now + self.drain_seconds
        self.pods = {name: pod for name, pod in self.pods.items() if pod.gone_at is None or pod.gone_at > self.now}
        for start in decision.starts:
            for _ in range(start.count):
                self.add(start.role, ready=False)
        self.most_gpus = max(self.most_gpus, self.gpus)

    @property
    def gpus(self) -> int:
        each = {role: pool.gpus_per_engine for role, pool in self.settings.pools.items()}
        return sum(each[pod.role] if pod.role else max(each.values()) for pod in self.pods.values())

    def ready(self, role: Role) -> int:
        return sum(pod.role is role and pod.ready_at <= self.now and pod.gone_at is None for pod in self.pods.values())

    @property
    def active(self) -> int:
        return sum(pod.gone_at is None for pod in self.pods.values())
