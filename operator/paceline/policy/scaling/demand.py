"""Demand as a distribution: from the increments of the router's histograms to arrivals that can be replayed.

The router counts prompts at ARRIVAL in log-spaced buckets, so what comes back-pressured is seen too. A scrape tells how
many came in an interval, not when in it: they are put at pseudo-random places in it, as a Poisson process would
(given their number, its arrivals are independent and uniform). The places follow from the interval alone, so the same
observation always gives the same arrivals.

Called by the planner, and by whoever turns scraped histograms into observations.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.policy.scaling.observation import ArrivalCell, Observation

TOKEN_BOUNDS: Final = tuple(round(16 * 2 ** (step / 2)) for step in range(33))
"""Upper bounds of the buckets, in tokens, as the router's histograms have them: 16 to a million, two for each
doubling. Larger prompts fall into one more bucket.
"""
MAX_REPLAYED: Final = 20_000
"""Most arrivals that are replayed; of more, the newest count."""
MIN_INTERVALS: Final = 8
"""Fewest intervals that say something about bursts."""

_MASK: Final = (1 << 64) - 1
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Request:
    """One arrival as the planner sees it."""

    seconds: float
    uncached: int
    cached: int

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt."""
        return self.uncached + self.cached


def bucket_of(tokens: float) -> int:
    """Index of the bucket that holds ``tokens``; ``len(TOKEN_BOUNDS)`` for those above the last bound."""
    return bisect_left(TOKEN_BOUNDS, tokens)


def cells_from_histograms(
    uncached: Sequence[int], uncached_sum: float, cached: Sequence[int], cached_sum: float
) -> tuple[ArrivalCell, ...]:
    """Cells of one interval from the increments of two histograms over :data:`TOKEN_BOUNDS`, and of their sums.

    ``uncached`` and ``cached`` count the same requests by bucket, so they need the same total. Each cell stands for its
    bucket's geometric middle, corrected so that the tokens add up to the sum. How the two go together is not known:
    every request gets the mean of the cached tokens, which keeps the load right to first order. Raises ValueError when
    the counts don't fit the buckets or each other.
    """
    for counts in (uncached, cached):
        if len(counts) != len(TOKEN_BOUNDS) + 1 or min(counts) < 0:
            raise ValueError(f"need {len(TOKEN_BOUNDS) + 1} counts that aren't negative, got {len(counts)}")
    requests = sum(uncached)
    if requests != sum(cached):
        raise ValueError(f"the histograms count different requests: {requests} and {sum(cached)}")
    if not requests:
        return ()
    middles = [_middle(bucket) for bucket in range(len(uncached))]
    guessed = math.fsum(count * middle for count, middle in zip(uncached, middles, strict=True))
    correction = uncached_sum / guessed if uncached_sum > 0 else 0.0
    each_cached = max(0, round(cached_sum / requests))
    return tuple(
        ArrivalCell(uncached=round(_within(bucket, middles[bucket] * correction)), cached=each_cached, count=count)
        for bucket, count in enumerate(uncached)
        if count
    )


def arrivals(observation: Observation) -> list[Request]:
    """The requests of the demand window in order of arrival, at most the newest :data:`MAX_REPLAYED`."""
    if observation.exact_arrivals:
        exact = [Request(one.seconds, one.uncached, one.cached) for one in observation.exact_arrivals]
        return sorted(exact, key=_seconds)[-MAX_REPLAYED:]
    newest: list[list[Request]] = []
    left = MAX_REPLAYED
    for interval in reversed(observation.arrivals):
        requests = [
            Request(interval.start + place * (interval.end - interval.start), cell.uncached, cell.cached)
            for cell, place in _places(interval.cells, interval.start)
        ]
        requests.sort(key=_seconds)
        newest.append(requests[-left:])
        left -= len(newest[-1])
        if left <= 0:
            break
    return [request for requests in reversed(newest) for request in requests]


def between(requests: Sequence[Request], begin: float, end: float) -> Sequence[Request]:
    """Those that arrived in [begin, end); ``requests`` are in order."""
    return requests[bisect_left(requests, begin, key=_seconds) : bisect_left(requests, end, key=_seconds)]


def scaled(requests: Sequence[Request], factor: Callable[[float], float]) -> list[Request]:
    """The same traffic at ``factor(seconds)`` times the rate, with bursts as long as they were and that much higher.

    With the factors summed up, request i stands for as many of its kind as the sum passes whole numbers at it, spread
    between it and the next one: no randomness, and any run of requests is scaled to within one. Factors must be
    finite and not negative.
    """
    result = []
    total = 0.0
    for index, request in enumerate(requests):
        before = math.floor(total)
        total += factor(request.seconds)
        copies = math.floor(total + _ROUNDING) - before
        total = max(total, float(before + copies))
        gap = requests[index + 1].seconds - request.seconds if index + 1 < len(requests) else 0.0
        for copy in range(copies):
            at = request.seconds + gap * copy / copies
            result.append(Request(at, request.uncached, request.cached) if copy else request)
    return result


def dispersion(observation: Observation) -> float:
    """Variance over mean of the number of arrivals in an interval: 1 for a Poisson process, more for bursts.

    For a renewal process it tends to the squared coefficient of variation of the times between arrivals (D. R. Cox,
    Renewal Theory), which is what queueing formulas ask for. 1 when there are too few intervals to tell.
    """
    counts = [(sum(cell.count for cell in one.cells), one.end - one.start) for one in observation.arrivals]
    seconds = math.fsum(length for _, length in counts)
    total = sum(count for count, _ in counts)
    if len(counts) < MIN_INTERVALS or total == 0 or seconds <= 0:
        return 1.0
    rate = total / seconds
    terms = [(count - rate * length) ** 2 / (rate * length) for count, length in counts if length > 0]
    return math.fsum(terms) / (len(terms) - 1) if len(terms) > 1 else 1.0


def _places(cells: Sequence[ArrivalCell], start: float) -> Iterator[tuple[ArrivalCell, float]]:
    """Each request with its place in the interval, 0 to 1: SplitMix64 (G. L. Steele et al., 2014) from the start."""
    seed = int(start * 1000) & _MASK
    for cell in cells:
        for _ in range(min(cell.count, MAX_REPLAYED)):
            seed = (seed + 0x9E3779B97F4A7C15) & _MASK
            mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
            yield cell, ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


def _middle(bucket: int) -> float:
    if bucket == 0:
        return TOKEN_BOUNDS[0] / 2
    low = TOKEN_BOUNDS[bucket - 1]
    high = TOKEN_BOUNDS[bucket] if bucket < len(TOKEN_BOUNDS) else 2 * low
    return math.sqrt(low * high)


def _within(bucket: int, tokens: float) -> float:
    """``tokens``, but not out of the bucket."""
    low = TOKEN_BOUNDS[bucket - 1] if bucket else 0
    high = TOKEN_BOUNDS[bucket] if bucket < len(TOKEN_BOUNDS) else math.inf
    return min(max(tokens, low), high)


def _seconds(request: Request) -> float:
    return request.seconds
