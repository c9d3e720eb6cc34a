"""What policies can know: gauges and counters as Prometheus would show them, a scrape and a delay old."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from paceline.api.wire import Role
from paceline.policy.scaling.observation import ArrivalCell, CompletionCell
from paceline.simulator.cluster import Cluster, PodState
from paceline.simulator.router import SimRouter
from paceline.simulator.score import Attained, Score
from paceline.simulator.settings import ScrapeHabits


@dataclass(frozen=True, slots=True)
class RoleSample:
    """All engines of one role at a scrape. Those that serve both roles are in both."""

    ready: int
    starting: int
    """Pods that will have this role and aren't ready; pods without a role count for neither."""
    running: int
    """Sequences that decode."""
    waiting: int
    """Requests that wait for these engines: in the router and in the engines."""
    waiting_tokens: int
    """Uncached prompt tokens of those in the router."""
    kv_usage: float
    """Mean over engines, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape. Counters count from the start."""

    since: float
    """When the scrape before was; the same as ``at`` for the first."""
    at: float
    prefill: RoleSample
    decode: RoleSample
    arrivals: int
    prompt_tokens: int
    uncached_tokens: int
    """Prompt tokens that the engine they were placed on did not hold."""
    completions: int
    output_tokens: int
    """Of completed requests."""
    arrived: tuple[ArrivalCell, ...]
    """What came since the scrape before, as the increments of histograms."""
    completed: tuple[CompletionCell, ...]
    """What was completed since the scrape before."""
    attained: Attained
    """How it met the objective."""


def take_sample(
    since: float,
    now: float,
    cluster: Cluster,
    router: SimRouter,
    score: Score,
    habits: ScrapeHabits,
    rng: random.Random,
) -> Sample:
    """Scrape everything, ``since`` the scrape before."""

    def noisy(value: float) -> float:
        return max(0.0, value * rng.gauss(1.0, habits.noise)) if habits.noise else value

    harvest = score.journal.harvest()
    return Sample(
        since=since,
        at=now,
        prefill=_role_sample(
            Role.PREFILL, cluster, len(router.line) - router.held, 0 if router.held else router.line.tokens, noisy
        ),
        decode=_role_sample(Role.DECODE, cluster, router.handoffs + router.held, 0, noisy),
        arrivals=score.arrivals,
        prompt_tokens=score.prompt_tokens,
        uncached_tokens=score.uncached_tokens,
        completions=score.completed,
        output_tokens=score.output_tokens,
        arrived=harvest.arrived,
        completed=harvest.completed,
        attained=harvest.attained,
    )


def _role_sample(
    role: Role, cluster: Cluster, queued: int, queued_tokens: int, noisy: Callable[[float], float]
) -> RoleSample:
    """``queued``: requests that wait in the router for any engine of the role, ``queued_tokens``: their new tokens."""
    engines = [
        pod.engine
        for pod in cluster.pods.values()
        if pod.engine is not None and pod.state is PodState.READY and pod.role in (role, Role.BOTH)
    ]
    for engine in engines:
        engine.settle()
    count = len(engines)
    usage = math.fsum(engine.used / engine.capacity for engine in engines) / count if count else 0.0
    waiting = queued + sum(engine.waiting for engine in engines)
    return RoleSample(
        ready=count,
        starting=sum(pod.state is PodState.STARTING and pod.role in (role, Role.BOTH) for pod in cluster.pods.values()),
        running=round(noisy(sum(engine.running for engine in engines))),
        waiting=round(noisy(waiting)),
        waiting_tokens=round(noisy(queued_tokens)),
        kv_usage=min(1.0, noisy(usage)),
    )
