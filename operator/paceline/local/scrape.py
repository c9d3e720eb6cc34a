"""Metrics of engines and routers as values: parsed from the Prometheus text that both expose.

Read by the live table, the report and the assignment of roles. Engines speak vLLM's names whether they are real or
emulated.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """What one engine says of itself. Counters are since its start, in tokens."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Share of KV blocks in use, 0 to 1."""
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    generation_tokens: float = 0.0

    @property
    def hit_rate(self) -> float | None:
        """Prompt tokens found in the prefix cache over those looked up; None before the first look-up."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


@dataclass(frozen=True, slots=True)
class Histogram:
    """A Prometheus histogram, summed over its labels: cumulative counts by upper bound, the last bound infinite."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def count(self) -> float:
        """Observations."""
        return self.counts[-1] if self.counts else 0.0

    def since(self, earlier: Histogram) -> Histogram:
        """The observations made after ``earlier``. A counter that went back was reset: then all of them are new."""
        if self.bounds != earlier.bounds or self.count < earlier.count:
            return self
        return Histogram(self.bounds, tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True)))

    def quantile(self, q: float) -> float | None:
        """By linear interpolation in the bucket, as Prometheus does; the last finite bound if beyond it; None if
        empty.
        """
        if self.count <= 0:
            return None
        rank = q * self.count
        for (low, below), (high, upto) in pairwise([(0.0, 0.0), *zip(self.bounds, self.counts, strict=True)]):
            if upto >= rank:
                if math.isinf(high):
                    return low
                return low + (high - low) * ((rank - below) / (upto - below) if upto > below else 1.0)
        return self.bounds[-1]

    def share_within(self, limit: float) -> float | None:
        """Share of observations at or below ``limit``, interpolated; None if there are none."""
        if self.count <= 0:
            return None
        for (low, below), (high, upto) in pairwise([(0.0, 0.0), *zip(self.bounds, self.counts, strict=True)]):
            if limit < high:
                part = 0.0 if math.isinf(high) else (limit - low) / (high - low)
                return (below + (upto - below) * part) / self.count
        return 1.0


@dataclass(frozen=True, slots=True)
class RouterMetrics:
    """What the router says. Times in seconds of the wall clock."""

    running: int = 0
    queued: int = 0
    ttft: Histogram = Histogram()
    itl: Histogram = Histogram()


ENGINE_NAMES: Final = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:generation_tokens_total",
)
ROUTER_NAMES: Final = (
    "paceline_router_running_requests",
    "paceline_router_queued_requests",
    "paceline_router_time_to_first_token_seconds_bucket",
    "paceline_router_inter_token_latency_seconds_bucket",
)


def parse_engine(text: str) -> EngineMetrics:
    """Read an engine's page. Missing metrics count as 0. Raises ValueError for text that is no page of metrics."""
    totals: dict[str, float] = dict.fromkeys(ENGINE_NAMES, 0.0)
    for name, _, value in _samples(text, ENGINE_NAMES):
        totals[name] += value
    running, waiting, kv_usage, queries, hits, generated = totals.values()
    return EngineMetrics(int(running), int(waiting), kv_usage, queries, hits, generated)


def parse_router(text: str) -> RouterMetrics:
    """Read a router's page. Missing metrics count as 0. Raises ValueError for text that is no page of metrics."""
    totals: dict[str, float] = dict.fromkeys(ROUTER_NAMES[:2], 0.0)
    buckets: dict[str, dict[float, float]] = {name: defaultdict(float) for name in ROUTER_NAMES[2:]}
    for name, labels, value in _samples(text, ROUTER_NAMES):
        if name in buckets:
            buckets[name][float(labels["le"])] += value
        else:
            totals[name] += value
    running, queued = totals.values()
    ttft, itl = (_histogram(found) for found in buckets.values())
    return RouterMetrics(int(running), int(queued), ttft, itl)


def _samples(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str], float]]:
    # Parsing takes 100 µs a line, and a page has hundreds that nobody here reads.
    lines = "\n".join(line for line in text.splitlines() if line.startswith(names))
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            if sample.name in names:
                yield sample.name, sample.labels, sample.value


def _histogram(buckets: Mapping[float, float]) -> Histogram:
    bounds = tuple(sorted(buckets))
    return Histogram(bounds, tuple(buckets[bound] for bound in bounds))
