"""The router's own metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS_BUCKETS: Final = tuple(round(0.001 * 2 ** (step / 2), 5) for step in range(39))
"""1 ms to 524 s, two buckets for each doubling."""
ITL_BUCKETS: Final = tuple(round(0.0005 * 2 ** (step / 2), 6) for step in range(29))
"""0.5 ms to 8 s."""
TOKEN_BUCKETS: Final = tuple(round(16 * 2 ** (step / 2)) for step in range(33))
"""16 to a million tokens: fine enough to replay arrivals from."""

Sample = tuple[str, str, dict[str, str], float]
"""Name without prefix, help, labels, value."""


class _Gauges(Collector):
    """Gauges that are read when somebody asks: nothing to keep in step on the request path."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """One family a name."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._read():
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(f"paceline_router_{name}", text, labels=tuple(labels))
            family.add_metric(tuple(labels.values()), value)
        return families.values()

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()


class Metrics:
    """All counters and histograms. Labels are from closed sets: paths that are served, outcomes, reasons."""

    def __init__(self, gauges: Callable[[], Iterable[Sample]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(gauges))
        self.requests = self._counter("requests", "Requests by outcome.", "outcome", "path")
        self.rejections = self._counter("rejections", "Requests refused for want of room.", "reason")
        self.remote_prefill = self._counter(
            "remote_prefill", "Placements by what became of the remote prefill.", "outcome"
        )
        self.placements = self._counter("placements", "Placements by where the prompt is computed and why.", "prefill")
        self.retries = self._counter("retries", "Requests sent to another engine, by reason.", "reason")
        self.fleet_refused = self._counter("fleet_refused", "Fleet files that could not be used.")
        self.ttft = self._histogram("time_to_first_token_seconds", "Arrival to first data, streams.", SECONDS_BUCKETS)
        self.itl = self._histogram("inter_token_latency_seconds", "Mean between events, a stream.", ITL_BUCKETS)
        self.request_seconds = self._histogram("request_seconds", "Arrival to the end of the answer.", SECONDS_BUCKETS)
        self._prompt_tokens = Histogram(
            "paceline_router_prompt_tokens_at_arrival",
            "Prompt tokens of arriving requests, exact for token ids, else estimated.",
            ("kind",),
            registry=self.registry,
            buckets=TOKEN_BUCKETS,
        )
        self.uncached_tokens = self._prompt_tokens.labels("uncached")
        self.cached_tokens = self._prompt_tokens.labels("cached")

    def render(self) -> bytes:
        """The page in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"paceline_router_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"paceline_router_{name}", text, registry=self.registry, buckets=buckets)
