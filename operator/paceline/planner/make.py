"""Puts a planner together from what the command line says. ``paceline operator`` calls it within its event loop."""

from __future__ import annotations

from pathlib import Path

from paceline.clock import WallClock
from paceline.planner.metrics import PlannerMetrics
from paceline.planner.prometheus import Prometheus
from paceline.planner.recorder import Recorder
from paceline.planner.scrape import RouterScraper
from paceline.planner.sharing import Quota
from paceline.planner.source import MetricsSource
from paceline.planner.targets import PlannerTargets


def make_targets(
    *, url: str | None = None, token: str | None = None, gpu_quota: int | None = None, record: Path | None = None
) -> PlannerTargets:
    """``url``: of Prometheus; None reads routers themselves. Raises ConfigError for what can't be used."""
    clock = WallClock()
    direct = RouterScraper(clock)
    source: MetricsSource = direct if url is None else Prometheus(url, clock, token=token)
    return PlannerTargets(
        source,
        direct,
        clock,
        PlannerMetrics(),
        quota=None if gpu_quota is None else Quota(gpu_quota),
        recorder=None if record is None else Recorder(record),
    )
