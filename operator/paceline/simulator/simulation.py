"""One run: a workload, a policy and a cluster, from the first arrival until nothing is left to do."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from paceline.api.wire import Role
from paceline.simulator.cache import PrefixCache, Tier
from paceline.simulator.cluster import Cluster, Mark
from paceline.simulator.engine import SimEngine
from paceline.simulator.events import EventLoop
from paceline.simulator.policies.base import Policy
from paceline.simulator.router import SimRouter
from paceline.simulator.score import Score
from paceline.simulator.settings import SimSettings
from paceline.simulator.telemetry import Sample, take_sample
from paceline.simulator.workload import Workload

OVERTIME_SECONDS: Final = 1800.0
"""How long after the last arrival requests may still end. What has not ended then is lost."""
PROGRESS_EVERY: Final = 2000
"""Requests between two calls of the progress hook."""


@dataclass(slots=True)
class Run:
    """What one run gave."""

    policy: str
    workload: Workload
    settings: SimSettings
    score: Score
    gpu_seconds: float = 0.0
    flips: int = 0
    starts: int = 0
    drains: int = 0
    start_failures: int = 0
    preemptions: int = 0
    max_gpus: int = 0
    wall_seconds: float = 0.0
    marks: list[Mark] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    """Scrapes, for the plot."""


class Simulation:
    """Puts everything together. Use once."""

    def __init__(self, workload: Workload, policy: Policy, settings: SimSettings) -> None:
        self._workload = workload
        self._policy = policy
        self._settings = settings
        self._loop = EventLoop()
        self._score = Score(len(workload), settings.objective)
        self._router = SimRouter(settings.profile, settings.router, workload.block_size, self._loop, self._score)
        self._shared = self._shared_tier()
        self._engines: list[SimEngine] = []
        self._cluster = Cluster(settings, self._loop, self._router, self._make_engine, bill_until=workload.seconds)
        self._noise = random.Random(f"{settings.seed}/noise")  # noqa: S311 - reproducible, not secret
        self._samples: list[Sample] = []
        self._unseen: deque[Sample] = deque()
        """Scrapes that the policy has not been shown yet."""

    def run(self, *, progress: Callable[[int], None] | None = None) -> Run:
        """Simulate. ``progress`` is called now and then with the number of requests that have arrived."""
        began = time.perf_counter()
        self._begin()
        loop, arrive = self._loop, self._router.arrive
        for request in self._workload:
            loop.run_until(request.arrived)
            arrive(request)
            if progress is not None and request.number % PROGRESS_EVERY == 0:
                progress(request.number)
        end = self._workload.seconds + OVERTIME_SECONDS
        while self._score.open and loop.next_at <= end:
            loop.run_next()
        return self._result(time.perf_counter() - began)

    def _begin(self) -> None:
        self._cluster.begin(self._policy.initial.by_role(self._settings))
        self._scrape(None)
        if self._policy.interval_seconds is not None:
            self._loop.at(self._policy.interval_seconds, self._decide)

    def _scrape(self, _: None) -> None:
        habits = self._settings.scrape
        since = self._samples[-1].at if self._samples else self._loop.now
        sample = take_sample(since, self._loop.now, self._cluster, self._router, self._score, habits, self._noise)
        self._samples.append(sample)
        self._unseen.append(sample)
        self._loop.at(self._loop.now + habits.interval_seconds, self._scrape)

    def _decide(self, _: None) -> None:
        known = self._loop.now - self._settings.scrape.delay_seconds
        seen = []
        while self._unseen and self._unseen[0].at <= known:
            seen.append(self._unseen.popleft())
        self._policy.decide(seen, self._cluster)
        if self._policy.interval_seconds is not None:
            self._loop.at(self._loop.now + self._policy.interval_seconds, self._decide)

    def _make_engine(self, number: int, role: Role) -> SimEngine:
        settings, profile = self._settings, self._settings.profile
        size = self._workload.block_size
        each = size * profile.kv_bytes_per_token
        lower = [
            (settings.tiers.host_tokens // size, each / profile.host_bandwidth),
            (settings.tiers.disk_tokens // size, each / settings.tiers.disk_bandwidth),
        ]
        cache = PrefixCache(
            profile.kv_capacity_tokens // size,
            lower=[(blocks, seconds) for blocks, seconds in lower if blocks],
            shared=self._shared,
            shared_seconds=each / settings.tiers.shared_bandwidth,
        )
        engine = SimEngine(number, profile, role, cache, self._router, self._loop)
        self._engines.append(engine)
        return engine

    def _shared_tier(self) -> Tier | None:
        blocks = self._settings.tiers.shared_tokens // self._workload.block_size
        return Tier(blocks) if blocks else None

    def _result(self, wall_seconds: float) -> Run:
        cluster = self._cluster
        return Run(
            policy=self._policy.name,
            workload=self._workload,
            settings=self._settings,
            score=self._score,
            gpu_seconds=cluster.gpu_seconds,
            flips=cluster.flips,
            starts=cluster.starts,
            drains=cluster.drains,
            start_failures=cluster.failures,
            preemptions=sum(engine.preemptions for engine in self._engines),
            max_gpus=cluster.max_gpus,
            wall_seconds=wall_seconds,
            marks=cluster.marks,
            samples=self._samples,
        )
