"""From a reading and the pods that are there to what the scaling policy looks at. Pure.

The simulator's policy makes the same observation from its virtual cluster (``simulator/policies/planner.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from paceline.api.conditions import Reason
from paceline.api.wire import EngineState, Role
from paceline.planner.increments import (
    arrivals_of,
    attainment_of,
    completions_of,
    edges_of,
    hit_rate_of,
    increments,
)
from paceline.planner.pages import EngineGauges, RouterPage
from paceline.planner.source import Blind, Reading
from paceline.policy.scaling.observation import EngineLoad, Measured, Observation

MISSED_SCRAPES: Final = 4
"""A router that was not read for so many of its intervals is not seen any more."""
LEAST_STALE_SECONDS: Final = 45.0
"""And never sooner than this."""
MAX_AHEAD_SECONDS: Final = 30.0
"""How far in the future a page may be."""
NAMED_AT_MOST: Final = 3


@dataclass(frozen=True, slots=True)
class EnginePod:
    """An engine as whoever runs pods knows it."""

    name: str
    role: Role | None
    state: EngineState
    age_seconds: float
    """Since its state last changed; of one that starts, since it was made."""
    role_changed: bool = False
    """Whether it may still have work of a role that it had before."""
    changing: bool = False
    """Whether it finishes work of another role first, and takes none for this one yet."""
    retry_later: bool = False
    """Whether it is too soon to replace it once more, should it be late."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed, and why it can't be trusted, if so."""

    observation: Observation
    blind: Blind | None


def observe(
    reading: Reading,
    engines: Sequence[EnginePod],
    routers: Sequence[str],
    *,
    now: float,
    window_seconds: float,
    measured: Measured,
    speed: float = 1.0,
    stale_seconds: float = LEAST_STALE_SECONDS,
) -> Seen:
    """An observation. ``routers``: those that must be among the pages. ``speed``: how much faster engines run than the
    model of them; the clock of ``now`` and of the pages runs as much faster.
    """
    pages = {name: read for name, read in reading.pages.items() if read}
    blind = _blind(reading, pages, routers, now=now, stale_seconds=stale_seconds)
    edges = edges_of(pages, since=now - window_seconds)
    counted = increments(pages, edges) if len(edges) > 1 else []
    if blind is None and not counted:
        message = "traffic has been looked at once only; its changes are known from the next look on"
        blind = Blind(Reason.METRICS_MISSING, message)
    newest = [pages[name][-1] for name in routers if name in pages]
    gauges = _gauges(newest)
    hit_rate = hit_rate_of(counted)
    observation = Observation(
        now=now,
        arrivals=arrivals_of(edges, counted) if counted else (),
        completions=completions_of(edges, counted) if counted else (),
        engines=tuple(_load(engine, gauges.get(engine.name, EngineGauges()), hit_rate) for engine in engines),
        queued_requests=sum(page.queued for page in newest),
        queued_decode=sum(page.queued_decode for page in newest),
        queued_seconds=sum(page.queued_seconds for page in newest) * speed,
        measured=measured,
        attainment=attainment_of(counted),
        metrics_problem=None if blind is None else blind.message,
    )
    return Seen(observation, blind)


def _blind(
    reading: Reading, pages: Mapping[str, Sequence[RouterPage]], routers: Sequence[str], *, now: float,
    stale_seconds: float,
) -> Blind | None:  # fmt: skip
    """The first thing that keeps the reading from being the whole truth."""
    if reading.blind is not None:
        return reading.blind
    if not routers:
        return Blind(Reason.METRICS_MISSING, "no router is ready, so nobody counts what arrives")
    for name in sorted(routers):
        if name in reading.faults:
            return reading.faults[name]
    unseen = sorted(name for name in routers if name not in pages)
    if unseen:
        return Blind(Reason.METRICS_MISSING, f"there are no metrics of router {_few(unseen)}")
    for name in sorted(routers):
        age = now - pages[name][-1].at
        if age > max(stale_seconds, MISSED_SCRAPES * _interval(pages[name])):
            return Blind(Reason.METRICS_STALE, f"the metrics of router {name} stopped")
        if age < -MAX_AHEAD_SECONDS:
            return Blind(Reason.CLOCK_SKEW, f"the metrics of router {name} are from the future")
    return None


def _interval(pages: Sequence[RouterPage]) -> float:
    recent = pages[-10:]
    gaps = [after.at - before.at for before, after in pairwise(recent)]
    return median(gaps) if gaps else 0.0


def _gauges(newest: Sequence[RouterPage]) -> dict[str, EngineGauges]:
    """Engines as all routers together see them: work adds up, what the engine says of itself does not."""
    total: dict[str, EngineGauges] = {}
    for page in newest:
        for name, one in page.engines.items():
            known = total.setdefault(name, EngineGauges())
            known.in_flight += one.in_flight
            known.prefilling += one.prefilling
            known.kv_usage = max(known.kv_usage, one.kv_usage)
            known.cached_tokens = max(known.cached_tokens, one.cached_tokens)
    return total


def _load(engine: EnginePod, gauges: EngineGauges, hit_rate: float) -> EngineLoad:
    former = {Role.PREFILL: gauges.in_flight, Role.DECODE: gauges.prefilling}
    return EngineLoad(
        name=engine.name,
        role=engine.role,
        state=engine.state,
        changing=engine.changing
        or (engine.role_changed and engine.role is not None and former.get(engine.role, 0) > 0),
        age_seconds=max(0.0, engine.age_seconds),
        retry_later=engine.retry_later,
        running=gauges.prefilling if engine.role is Role.PREFILL else gauges.in_flight,
        kv_usage=gauges.kv_usage,
        # Which cached blocks will be used again nobody knows; as many as were, of late.
        reusable_tokens=round(hit_rate * gauges.cached_tokens),
    )


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
