"""The router's own metrics, in a registry of their own.

Counters and histograms are plain numbers here and become Prometheus families only when somebody asks: taking note of a
request costs a tenth of what prometheus_client's own types do, and there is one event loop, so no lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

PREFIX: Final = "paceline_router_"
SECONDS_BUCKETS: Final = tuple(round(0.001 * 2 ** (step / 2), 5) for step in range(39))
"""1 ms to 524 s, two buckets for each doubling."""
ITL_BUCKETS: Final = tuple(round(0.0005 * 2 ** (step / 2), 6) for step in range(29))
"""0.5 ms to 8 s."""
DECISION_BUCKETS: Final = tuple(round(0.00001 * 2**step, 5) for step in range(15))
"""10 µs to 0.16 s."""
TOKEN_BUCKETS: Final = tuple(float(round(16 * 2 ** (step / 2))) for step in range(33))
"""16 to a million tokens: fine enough to replay arrivals from."""

Sample = tuple[str, str, dict[str, str], float]
"""Name without prefix, help, labels, value."""


class Counts:
    """A counter with labels. Their values must come from closed sets: each combination is kept for ever."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = PREFIX + name
        self._text = text
        self._labels = labels
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *values: str) -> None:
        """Count one."""
        self._values[values] = self._values.get(values, 0) + 1

    def family(self) -> Metric:
        """As Prometheus sees it."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._values.items():
            family.add_metric(values, count)
        return family


class Distribution:
    """A histogram without labels. Each bucket keeps the exemplar of the last value that had one."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: Exemplar | None = None) -> None:
        """Take note of one value."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if exemplar is not None:
            self._exemplars[bucket] = exemplar

    @property
    def bounds(self) -> Sequence[float]:
        """Upper ends of the buckets but the last."""
        return self._bounds

    @property
    def counts(self) -> Sequence[int]:
        """Values by bucket; the last has those above all bounds."""
        return self._counts

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Put the samples into a family."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for number, (bound, count) in enumerate(zip(bounds, accumulate(self._counts), strict=True)):
            exemplar = self._exemplars.get(number)
            buckets.append((bound, count) if exemplar is None else (bound, count, exemplar))
        family.add_metric(labels, buckets, self._sum)


class Metrics(Collector):
    """All that the router counts and measures; ``gauges`` and ``counts``, of others, are read when somebody asks."""

    def __init__(self, gauges: Callable[[], Iterable[Sample]], counts: Callable[[], Iterable[Sample]] = tuple) -> None:
        self._gauges = gauges
        self._own_counts = counts
        self.requests = Counts("requests", "Requests by outcome.", "outcome", "path")
        self.rejections = Counts("rejections", "Requests refused for want of room.", "reason")
        self.remote_prefill = Counts("remote_prefill", "Requests by what became of the remote prefill.", "outcome")
        self.placements = Counts("placements", "Placements by where the prompt is computed and why.", "prefill")
        self.retries = Counts("retries", "Requests sent to another engine, by what the first did.", "reason")
        self.hedges = Counts("hedges", "Second engines for what was late, by what came of them.", "stage", "outcome")
        self.resumes = Counts("resumes", "Streams whose engine broke, by whether another went on.", "outcome")
        self.fleet_refused = Counts("fleet_refused", "Fleet files that could not be used.")
        self.fleet_watch_breaks = Counts("fleet_watch_breaks", "Times that the pods could not be followed.", "why")
        self.http_refused = Counts("http_refused", "Requests that were refused before they were parsed.", "status")
        self.ttft = Distribution(SECONDS_BUCKETS)
        self.itl = Distribution(ITL_BUCKETS)
        self.request_seconds = Distribution(SECONDS_BUCKETS)
        self.resume_gap = Distribution(SECONDS_BUCKETS)
        self.uncached_tokens = Distribution(TOKEN_BUCKETS)
        self.cached_tokens = Distribution(TOKEN_BUCKETS)
        self._shown: list[tuple[str, str, Distribution]] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def show(self, name: str, text: str, seen: Distribution) -> None:
        """Have a distribution of somebody else's on the page too."""
        self._shown.append((name, text, seen))

    def render(self) -> bytes:
        """The page in Prometheus's text format."""
        return generate_latest(self.registry)

    def render_for(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that a scraper accepts, and its content type. Exemplars are in OpenMetrics only."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        yield from _families(self._gauges(), GaugeMetricFamily)
        yield from _families(self._own_counts(), CounterMetricFamily)
        for counts in (
            self.requests, self.rejections, self.remote_prefill, self.placements, self.retries, self.hedges,
            self.resumes, self.fleet_refused, self.fleet_watch_breaks, self.http_refused,
        ):  # fmt: skip
            yield counts.family()
        for name, text, distribution in (
            ("time_to_first_token_seconds", "Arrival to first data, of streams.", self.ttft),
            ("inter_token_latency_seconds", "Mean time between the events of a stream.", self.itl),
            ("request_seconds", "Arrival to the end of the answer.", self.request_seconds),
            ("resume_gap_seconds", "Break of a stream to the first word of another engine.", self.resume_gap),
            *self._shown,
        ):
            family = HistogramMetricFamily(PREFIX + name, text)
            distribution.add_to(family)
            yield family
        prompts = HistogramMetricFamily(
            PREFIX + "prompt_tokens_at_arrival",
            "Prompt tokens of arriving requests by what the engine with the longest match holds.",
            labels=("kind",),
        )
        self.uncached_tokens.add_to(prompts, ("uncached",))
        self.cached_tokens.add_to(prompts, ("cached",))
        yield prompts


def _families(samples: Iterable[Sample], kind: type[GaugeMetricFamily | CounterMetricFamily]) -> Iterable[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for name, text, labels, value in samples:
        family = families.get(name)
        if family is None:
            family = families[name] = kind(PREFIX + name, text, labels=tuple(labels))
        family.add_metric(tuple(labels.values()), value)
    return families.values()
