"""Metrics of engines and routers as values: parsed from the Prometheus text that both expose.

Read by the live table, the report and the assignment of roles. Engines speak vLLM's names whether they are real or
emulated.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

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
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    preemptions: float = 0.0

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

    requests: float = 0.0
    running: int = 0
    queued: int = 0
    rejections: float = 0.0
    ttft: Histogram = Histogram()
    itl: Histogram = Histogram()


def parse_engine(text: str) -> EngineMetrics:
    """Read an engine's page. Metrics that are missing count as 0. Raises ValueError for text that is no page of
    metrics.
    """
    totals = _totals(text)
    return EngineMetrics(
        running=int(totals["vllm:num_requests_running"]),
        waiting=int(totals["vllm:num_requests_waiting"]),
        kv_usage=totals["vllm:kv_cache_usage_perc"],
        prefix_queries=totals["vllm:prefix_cache_queries_total"],
        prefix_hits=totals["vllm:prefix_cache_hits_total"],
        prompt_tokens=totals["vllm:prompt_tokens_total"],
        generation_tokens=totals["vllm:generation_tokens_total"],
        preemptions=totals["vllm:num_preemptions_total"],
    )


def parse_router(text: str) -> RouterMetrics:
    """Read a router's page. Metrics that are missing count as 0. Raises ValueError for text that is no page of
    metrics.
    """
    samples = list(_samples(text))
    totals: dict[str, float] = defaultdict(float)
    for name, _, value in samples:
        totals[name] += value
    return RouterMetrics(
        requests=totals["paceline_router_requests_total"],
        running=int(totals["paceline_router_running_requests"]),
        queued=int(totals["paceline_router_queued_requests"]),
        rejections=totals["paceline_router_rejections_total"],
        ttft=_histogram(samples, "paceline_router_time_to_first_token_seconds"),
        itl=_histogram(samples, "paceline_router_inter_token_latency_seconds"),
    )


def _samples(text: str) -> Iterable[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _totals(text: str) -> defaultdict[str, float]:
    totals: defaultdict[str, float] = defaultdict(float)
    for name, _, value in _samples(text):
        totals[name] += value
    return totals


def _histogram(samples: Iterable[tuple[str, dict[str, str], float]], name: str) -> Histogram:
    buckets: defaultdict[float, float] = defaultdict(float)
    for sample, labels, value in samples:
        if sample == f"{name}_bucket":
            buckets[float(labels["le"])] += value
    bounds = tuple(sorted(buckets))
    return Histogram(bounds, tuple(buckets[bound] for bound in bounds))
