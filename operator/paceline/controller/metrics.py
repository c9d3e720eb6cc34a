"""What the operator says of itself in Prometheus' format. One object, made at start and passed to who counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class OperatorMetrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._api = Counter(
            "paceline_operator_api_requests_total",
            "Requests to the Kubernetes API; code 0 is no answer",
            ["verb", "resource", "code"],
            registry=self._registry,
        )
        self._reconciles = Counter(
            "paceline_operator_reconciles_total",
            "Passes over one ModelDeployment",
            ["outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "paceline_operator_reconcile_seconds", "Duration of a pass", buckets=SECONDS, registry=self._registry
        )
        self._watch_restarts = Counter(
            "paceline_operator_watch_restarts_total",
            "Lists after a watch that could not go on",
            ["resource"],
            registry=self._registry,
        )
        self.queue_length = Gauge(
            "paceline_operator_queue_length", "ModelDeployments that wait for a pass", registry=self._registry
        )
        self.cached_objects = Gauge(
            "paceline_operator_cached_objects",
            "Objects held by the watch caches",
            ["resource"],
            registry=self._registry,
        )
        self.is_leader = Gauge(
            "paceline_operator_is_leader", "1 while this replica holds the lease", registry=self._registry
        )

    def include(self, others: CollectorRegistry) -> None:
        """Show what somebody else of this process counts, too."""
        self._registry.register(others)

    def api_request(self, verb: str, resource: str, code: int) -> None:
        """One request was answered with ``code``, or not at all (0)."""
        self._api.labels(verb, resource, str(code)).inc()

    def reconciled(self, outcome: str, seconds: float) -> None:
        """One pass ended."""
        self._reconciles.labels(outcome).inc()
        self._seconds.observe(seconds)

    def watch_restarted(self, resource: str) -> None:
        """A watch could not go on where it was."""
        self._watch_restarts.labels(resource).inc()

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
