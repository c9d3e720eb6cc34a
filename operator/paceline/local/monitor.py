"""Watches a running cluster: scrapes engines and router twice a second and keeps what it saw.

The live table shows the latest samples, the plot all of them; the cluster takes the loads for its choice of roles.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from paceline.api import wire
from paceline.clock import Clock
from paceline.local.cluster import LocalCluster
from paceline.local.kubelet import PodPhase
from paceline.local.probe import PodClient
from paceline.local.scrape import EngineMetrics, RouterMetrics, parse_engine, parse_router

PERIOD_SECONDS: Final = 0.5
MAX_SAMPLES: Final = 14_400
"""Two hours; older samples are dropped."""
MAX_STARTS: Final = 4_096
"""Lives of engines whose counters are remembered; the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One engine at one time."""

    name: str
    pool: str
    role: wire.Role | None
    phase: PodPhase
    reason: str
    starts: int
    metrics: EngineMetrics | None
    """None when it did not answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one time."""

    at: float
    """Seconds on the clock that the monitor was given."""
    engines: tuple[EngineSample, ...]
    router: RouterMetrics | None

    def with_role(self, role: wire.Role) -> int:
        """Ready engines in a role."""
        return sum(engine.role is role and engine.phase is PodPhase.READY for engine in self.engines)


class Monitor:
    """Takes samples until cancelled."""

    def __init__(self, cluster: LocalCluster, client: PodClient, clock: Clock) -> None:
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._cluster = cluster
        self._client = client
        self._clock = clock
        self._lives: dict[str, EngineMetrics] = {}

    async def run(self) -> None:
        """Sample for ever. The task to cancel."""
        while True:
            begun = self._clock.monotonic()
            await self.sample()
            await asyncio.sleep(max(0.0, PERIOD_SECONDS - (self._clock.monotonic() - begun)))

    async def sample(self) -> Sample:
        """Take one sample now."""
        views = self._cluster.engines
        pages = await asyncio.gather(
            *(self._engine(view.status.ports.api, view.status.phase) for view in views),
        )
        router = await self._router(self._cluster.router.ports.admin, self._cluster.router.phase)
        for view, metrics in zip(views, pages, strict=True):
            if metrics is not None:
                self._lives[view.status.start_id] = metrics
        while len(self._lives) > MAX_STARTS:
            del self._lives[next(iter(self._lives))]
        self._cluster.loads = {
            view.status.name: float(metrics.running + metrics.waiting)
            for view, metrics in zip(views, pages, strict=True)
            if metrics is not None
        }
        engines = tuple(
            EngineSample(
                name=view.status.name,
                pool=view.pool,
                role=view.role,
                phase=view.status.phase,
                reason=view.status.reason,
                starts=view.status.starts,
                metrics=metrics,
            )
            for view, metrics in zip(views, pages, strict=True)
        )
        sample = Sample(self._clock.monotonic(), engines, router)
        self.samples.append(sample)
        return sample

    def prefix_totals(self) -> tuple[float, float]:
        """Prompt tokens looked up in prefix caches and found there, over all engines and all their lives."""
        lives = self._lives.values()
        return sum(life.prefix_queries for life in lives), sum(life.prefix_hits for life in lives)

    async def _engine(self, port: int, phase: PodPhase) -> EngineMetrics | None:
        text = await self._client.metrics(port) if phase is PodPhase.READY else None
        try:
            return None if text is None else parse_engine(text)
        except ValueError:
            return None

    async def _router(self, port: int, phase: PodPhase) -> RouterMetrics | None:
        text = await self._client.metrics(port) if phase is PodPhase.READY else None
        try:
            return None if text is None else parse_router(text)
        except ValueError:
            return None
