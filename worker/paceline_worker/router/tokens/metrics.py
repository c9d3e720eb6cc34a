"""What the tokeniser counts and measures, for the router's page of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline_worker.router.metrics import PREFIX, SECONDS_BUCKETS, Counts, Distribution
from paceline_worker.router.tokens.cache import PartCache


class TokenMetrics(Collector):
    """Register it with the router's registry."""

    def __init__(self, cache: PartCache, pending: Sized, *, loaded: bool) -> None:
        self._cache = cache
        self._pending = pending
        self._loaded = loaded
        self.outcomes = Counts("tokenise", "Prompts by what became of their tokens.", "outcome")
        self.seconds = Distribution(SECONDS_BUCKETS)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        yield self.outcomes.family()
        seconds = HistogramMetricFamily(PREFIX + "tokenise_seconds", "Time that a prompt waited for its tokens.")
        self.seconds.add_to(seconds)
        yield seconds
        for name, text, value in (
            ("tokenizer_loaded", "1 when prompts that come as text can have exact tokens.", float(self._loaded)),
            ("tokenise_pending", "Prompts that are being tokenised or wait for it.", len(self._pending)),
            ("token_cache_bytes", "Size of the cache of parts of prompts.", self._cache.bytes),
            ("token_cache_entries", "Parts of prompts in the cache.", len(self._cache)),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        yield CounterMetricFamily(
            PREFIX + "token_cache_evictions", "Parts that went from the cache to make room.", value=self._cache.evicted
        )
        characters = CounterMetricFamily(
            PREFIX + "token_cache_characters", "Characters of parts by whether the cache had them.", labels=("result",)
        )
        characters.add_metric(("hit",), self._cache.found_characters)
        characters.add_metric(("miss",), self._cache.missed_characters)
        yield characters
