"""The worker's own metrics, beside those of vLLM. Called by the worker; rendered by the admin server."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline_worker.engine.settings import Settings
from paceline_worker.engine.status import EngineStatus, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _StatusCollector(Collector):
    """Reads the status when scraped, so that no second copy of it can go stale."""

    def __init__(self, status: EngineStatus, settings: Settings) -> None:
        self._status = status
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        status, settings = self._status, self._settings
        yield InfoMetricFamily(
            "paceline_engine",
            "What this engine serves and since which start",
            value={
                "model": settings.config.served_names[0],
                "backend": settings.backend.value,
                "start_id": status.start_id,
            },
        )
        yield GaugeMetricFamily("paceline_engine_ready", "1 while new work may come", value=int(status.ready))
        yield GaugeMetricFamily(
            "paceline_engine_healthy", "0 while health checks fail, or no step is done", value=int(status.well)
        )
        yield GaugeMetricFamily(
            "paceline_engine_accelerators",
            "Accelerators that this pod holds; what an emulated engine stands for",
            value=settings.config.accelerators.count,
        )
        states = GaugeMetricFamily("paceline_engine_state", "1 for the state that holds", labels=["state"])
        for state in State:
            states.add_metric([state.value], int(status.state is state))
        yield states
        if status.in_flight is not None:
            yield GaugeMetricFamily(
                "paceline_engine_in_flight", "Requests in flight, as last seen", value=status.in_flight
            )


class EngineMetrics:
    """Registry of one worker."""

    __slots__ = ("_registry", "drain_seconds", "start_seconds", "warmup_seconds")

    def __init__(self, status: EngineStatus, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status, settings))
        self.start_seconds = Gauge(
            "paceline_engine_start_seconds", "From the worker's start to readiness", registry=self._registry
        )
        self.warmup_seconds = Gauge(
            "paceline_engine_warmup_seconds",
            "From the first good health check to a completed request",
            registry=self._registry,
        )
        self.drain_seconds = Gauge("paceline_engine_drain_seconds", "How long the drain took", registry=self._registry)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
