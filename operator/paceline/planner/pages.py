"""One look at one router's metrics, checked: everything that the planner knows of traffic and of the load of engines.

Both sources of metrics make such pages; :mod:`paceline.planner.increments` counts from one to the next. A page that
can't be right is refused as a whole: half of a histogram would be a load that never was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from paceline.policy.scaling.demand import TOKEN_BOUNDS

PREFIX: Final = "paceline_router_"
ARRIVALS: Final = f"{PREFIX}prompt_tokens_at_arrival"
ANSWERS: Final = f"{PREFIX}answers_total"
ANSWER_PROMPTS: Final = f"{PREFIX}answer_prompt_tokens_total"
ANSWER_TOKENS: Final = f"{PREFIX}answer_tokens_total"
FIRST_TOKENS: Final = f"{PREFIX}first_tokens_total"
OBJECTIVE: Final = f"{PREFIX}objective_total"
QUEUED: Final = f"{PREFIX}queued_requests"
QUEUED_DECODE: Final = f"{PREFIX}queued_decode_requests"
QUEUED_SECONDS: Final = f"{PREFIX}queued_prefill_seconds"
IN_FLIGHT: Final = f"{PREFIX}engine_in_flight"
PREFILLING: Final = f"{PREFIX}engine_prefilling"
KV_USAGE: Final = f"{PREFIX}engine_kv_usage"
CACHED: Final = f"{PREFIX}engine_cached_tokens"
SUSPENDED: Final = f"{PREFIX}engine_suspended"
NOTHING: Final = "none"
"""Reason on the page of engines that don't stand out."""
LONGEST_REASON: Final = 40
NAMES: Final = frozenset(
    {
        f"{ARRIVALS}_bucket", f"{ARRIVALS}_sum", ANSWERS, ANSWER_PROMPTS, ANSWER_TOKENS, FIRST_TOKENS, OBJECTIVE,
        QUEUED, QUEUED_DECODE, QUEUED_SECONDS, IN_FLIGHT, PREFILLING, KV_USAGE, CACHED, SUSPENDED,
    }
)  # fmt: skip
"""Samples that a page is made of; all others are passed over."""
BUCKETS: Final = len(TOKEN_BOUNDS) + 1
MAX_ENGINES: Final = 20_000
"""Engines on one page."""
LARGEST: Final = 2.0**53
"""Counters above this are not whole numbers any more."""

_BUCKET_OF: Final = {**{float(bound): index for index, bound in enumerate(TOKEN_BOUNDS)}, math.inf: BUCKETS - 1}


class BadPage(ValueError):
    """A page that can't be right. The message says why, in words for the user."""


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class EngineGauges:
    """One engine as a router sees it."""

    in_flight: int = 0
    """Requests that it decodes for this router."""
    prefilling: int = 0
    """Prompts that it computes for this router's other engines."""
    kv_usage: float = 0.0
    cached_tokens: int = 0
    stands_out: str = ""
    """Why, among its siblings; empty where it doesn't."""
    suspended: bool = False
    """Whether it gets no new work for that."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything that only grows while a router lives. Tuples are by bucket of :data:`TOKEN_BOUNDS`, not cumulative."""

    uncached: tuple[int, ...] = (0,) * BUCKETS
    uncached_tokens: float = 0.0
    cached: tuple[int, ...] = (0,) * BUCKETS
    cached_tokens: float = 0.0
    answers: tuple[int, ...] = (0,) * BUCKETS
    answer_prompts: tuple[int, ...] = (0,) * BUCKETS
    answer_tokens: tuple[int, ...] = (0,) * BUCKETS
    first: tuple[int, int] = (0, 0)
    """First tokens, or refusals: within the TTFT, and all."""
    ended: tuple[int, int, int] = (0, 0, 0)
    """Ends of streams, or refusals: within the ITL, within both, and all."""


@dataclass(frozen=True, slots=True)
class RouterPage:
    """A router at one time."""

    at: float
    """When it was read, in seconds on the clock of whoever reads."""
    counters: Counters = Counters()
    queued: int = 0
    queued_decode: int = 0
    """Of those, for a decode engine; routers of former versions don't say."""
    queued_seconds: float = 0.0
    engines: Mapping[str, EngineGauges] = field(default_factory=dict)


def make_page(at: float, samples: Iterable[Sample]) -> RouterPage:
    """A page from its samples. Raises BadPage."""
    page = _Draft()
    for sample in samples:
        if sample.name in NAMES:
            page.add(sample)
    return page.finish(at)


class _Draft:
    """A page in the making."""

    def __init__(self) -> None:
        self._histograms: dict[str, list[float]] = {kind: [math.nan] * BUCKETS for kind in ("uncached", "cached")}
        self._sums: dict[str, float] = {}
        self._answers = {name: [0] * BUCKETS for name in (ANSWERS, ANSWER_PROMPTS, ANSWER_TOKENS)}
        self._first = {"met": 0, "missed": 0}
        self._ended: dict[tuple[str, str], int] = {}
        self._gauges: dict[str, float] = {}
        self._engines: dict[str, EngineGauges] = {}

    def add(self, sample: Sample) -> None:
        name, labels, value = sample
        if not 0 <= value <= LARGEST:  # NaN is neither
            raise BadPage(f"{name} is {value}")
        try:
            self._take(name, labels, value)
        except KeyError as error:
            raise BadPage(f"{name} has no label {error}, or a value of it that is not known") from None

    def _take(self, name: str, labels: Mapping[str, str], value: float) -> None:
        if name == f"{ARRIVALS}_bucket":
            self._histograms[labels["kind"]][_bucket(labels["le"])] = value
        elif name == f"{ARRIVALS}_sum":
            self._sums[labels["kind"]] = value
        elif name in self._answers:
            self._answers[name][_bucket(labels["prompt"])] = round(value)
        elif name == FIRST_TOKENS:
            self._first[labels["ttft"]] = round(value)
        elif name == OBJECTIVE:
            self._ended[labels["ttft"], labels["itl"]] = round(value)
        elif name in (QUEUED, QUEUED_DECODE, QUEUED_SECONDS):
            self._gauges[name] = value
        else:
            self._take_engine(name, labels["engine"], value, labels.get("reason", NOTHING))

    def _take_engine(self, name: str, engine: str, value: float, reason: str) -> None:
        gauges = self._engines.get(engine)
        if gauges is None:
            if len(self._engines) >= MAX_ENGINES:
                raise BadPage(f"it names more than {MAX_ENGINES} engines")
            gauges = self._engines[engine] = EngineGauges()
        if name == IN_FLIGHT:
            gauges.in_flight = round(value)
        elif name == PREFILLING:
            gauges.prefilling = round(value)
        elif name == CACHED:
            gauges.cached_tokens = round(value)
        elif name == SUSPENDED:
            if reason != NOTHING:
                gauges.stands_out, gauges.suspended = reason[:LONGEST_REASON], value > 0
        elif value > 1:
            raise BadPage(f"{name} of {engine} is {value}, a share can't be")
        else:
            gauges.kv_usage = value

    def finish(self, at: float) -> RouterPage:
        met = self._ended.get(("met", "met"), 0)
        uncached, cached = self._histogram("uncached"), self._histogram("cached")
        if sum(uncached) != sum(cached):
            raise BadPage(f"{ARRIVALS} counts {sum(uncached)} requests by one kind and {sum(cached)} by the other")
        if QUEUED not in self._gauges:
            raise BadPage(f"{QUEUED} is missing")
        return RouterPage(
            at=at,
            counters=Counters(
                uncached=uncached,
                uncached_tokens=self._sums.get("uncached", 0.0),
                cached=cached,
                cached_tokens=self._sums.get("cached", 0.0),
                answers=tuple(self._answers[ANSWERS]),
                answer_prompts=tuple(self._answers[ANSWER_PROMPTS]),
                answer_tokens=tuple(self._answers[ANSWER_TOKENS]),
                first=(self._first["met"], sum(self._first.values())),
                ended=(met + self._ended.get(("missed", "met"), 0), met, sum(self._ended.values())),
            ),
            queued=round(self._gauges[QUEUED]),
            queued_decode=round(self._gauges.get(QUEUED_DECODE, 0.0)),
            queued_seconds=self._gauges.get(QUEUED_SECONDS, 0.0),
            engines=self._engines,
        )

    def _histogram(self, kind: str) -> tuple[int, ...]:
        upto = self._histograms[kind]
        if any(math.isnan(value) for value in upto):
            raise BadPage(f"{ARRIVALS} has not all of its buckets ({kind}); routers of this version have {BUCKETS}")
        counts = [round(upto[0]), *(round(high - low) for low, high in pairwise(upto))]
        if min(counts) < 0:
            raise BadPage(f"{ARRIVALS} counts fewer requests up to a larger bound than up to a smaller one ({kind})")
        return tuple(counts)


def _bucket(bound: str) -> int:
    try:
        return _BUCKET_OF[float(bound)]
    except ValueError:
        raise KeyError(bound) from None
