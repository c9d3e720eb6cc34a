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
from itertools import islice
from typing import Final, NamedTuple

from paceline.policy.scaling.observation import ArrivalCell, ArrivalInterval, Observation
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.perfmodel import EngineProfile

TOKEN_BOUNDS: Final = tuple(round(16 * 2 ** (step / 2)) for step in range(33))
"""Upper bounds of the buckets, in tokens, as the router's histograms have them: 16 to a million, two for each
doubling. Larger prompts fall into one more bucket.
"""
MAX_REPLAYED: Final = 20_000
"""Most arrivals that are replayed; of more, the newest count."""
SAME_RATE: Final = 0.1
"""Part by which their rate may differ from that of all."""
_MASK: Final = (1 << 64) - 1
_ROUNDING: Final = 1e-9


class Request(NamedTuple):
    """One arrival as the planner sees it."""

    seconds: float
    prompt: int
    """Tokens, cached ones too."""
    cached: int
    service_seconds: float
    """Prefill time on an idle engine, by the engine model."""
    output: float
    """Expected output tokens."""


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


def arrivals(observation: Observation, profile: EngineProfile, outputs: OutputModel) -> list[Request]:
    """The requests of the demand window in order of arrival, at most the newest :data:`MAX_REPLAYED`.

    ``profile`` gives their prefill times, ``outputs`` how long their answers will be.
    """

    def request(seconds: float, uncached: int, cached: int) -> Request:
        prompt = uncached + cached
        service = profile.prefill_seconds(max(1, uncached), cached)
        return Request(seconds, prompt, cached, service, outputs.expected(prompt))

    if observation.exact_arrivals:
        exact = [request(one.seconds, one.uncached, one.cached) for one in observation.exact_arrivals]
        return sorted(exact)[-MAX_REPLAYED:]
    newest: list[list[Request]] = []
    left = MAX_REPLAYED
    for interval in reversed(observation.arrivals):
        length = interval.end - interval.start
        requests = []
        places = _places(interval.start)
        for cell in interval.cells:
            like = request(interval.start, cell.uncached, cell.cached)
            count = min(cell.count, left)
            requests += [Request(like[0] + place * length, *like[1:]) for place in islice(places, count)]
        requests.sort()
        newest.append(requests[-left:])
        left -= len(newest[-1])
        if left <= 0:
            break
    return [one for requests in reversed(newest) for one in requests]


@dataclass(frozen=True, slots=True)
class Window:
    """The demand window, or as much of it as can be replayed."""

    begin: float
    end: float
    requests: Sequence[Request]
    """Those of that time, in order of arrival."""
    intervals: Sequence[ArrivalInterval]
    """Those that they came in, and of the whole window."""
    measured_from: float
    """Where the whole window begins, for which it is measured what was attained."""
    rate: float
    """Requests a second in the whole of it."""

    @property
    def seconds(self) -> float:
        """Length of what can be replayed."""
        return self.end - self.begin

    @property
    def even(self) -> bool:
        """Whether as many requests a second came in it as in the whole window."""
        return self.seconds <= 0 or abs(len(self.requests) / self.seconds - self.rate) <= SAME_RATE * self.rate


def window(observation: Observation, profile: EngineProfile, outputs: OutputModel, *, seconds: float) -> Window:
    """The newest ``seconds`` of an observation, whose arrivals must cover some time."""
    end = observation.arrivals[-1].end
    begin = whole = max(observation.arrivals[0].start, end - seconds)
    intervals = [interval for interval in observation.arrivals if interval.end > begin]
    arrived = sum(count_of(one) for one in intervals)
    newest = arrivals(observation, profile, outputs)
    requests = [request for request in newest if request.seconds >= begin]
    if requests and requests[0].seconds > begin and len(requests) < arrived:
        # More than can be replayed: the window begins where what is left of it does.
        begin = requests[0].seconds
    if len(newest) < MAX_REPLAYED:
        whole, arrived = begin, len(requests)
    rate = arrived / (end - whole) if end > whole else 0.0
    return Window(begin, end, requests, intervals, whole, rate)


def count_of(interval: ArrivalInterval) -> int:
    """Requests that arrived in it."""
    return sum(cell.count for cell in interval.cells)


def between(requests: Sequence[Request], begin: float, end: float) -> Sequence[Request]:
    """Those that arrived in [begin, end); ``requests`` are in order."""
    return requests[bisect_left(requests, (begin,)) : bisect_left(requests, (end,))]


def scaled(requests: Sequence[Request], factor: Callable[[float], float]) -> list[Request]:
    """The same traffic at ``factor(seconds)`` times the rate, with bursts as long as they were and that much higher.

    With the factors summed up, request i stands for as many of its kind as the sum passes whole numbers at it, spread
    between it and the next one: no randomness, and any run of requests is scaled to within one. Factors must be
    finite and not negative.
    """
    result: list[Request] = []
    total = 0.0
    passed = 0
    for index, request in enumerate(requests):
        total += factor(request.seconds)
        copies = int(total + _ROUNDING) - passed
        if copies == 1:
            result.append(request)
        elif copies:
            gap = requests[index + 1].seconds - request.seconds if index + 1 < len(requests) else 0.0
            result += [Request(request[0] + gap * copy / copies, *request[1:]) for copy in range(copies)]
        passed += copies
    return result


def repeated(requests: Sequence[Request], *, seconds: float, since: float) -> list[Request]:
    """Requests of the last ``seconds``, and before those the same again and again, back to ``since``."""
    if not requests or seconds <= 0:
        return list(requests)
    times = math.ceil((requests[0].seconds - since) / seconds) if requests[0].seconds > since else 0
    earlier = [
        Request(request[0] - time * seconds, *request[1:])
        for time in range(min(times, MAX_REPLAYED // len(requests)), 0, -1)
        for request in requests
    ]
    return [*between(earlier, since, math.inf), *requests]


def _places(start: float) -> Iterator[float]:
    """Places in the interval that begins at ``start``, 0 to 1: SplitMix64 (G. L. Steele et al., 2014) from there."""
    seed = int(start * 1000) & _MASK
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        yield ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


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
