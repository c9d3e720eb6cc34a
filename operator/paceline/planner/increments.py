"""From pages of several routers to what arrived and what ended in each interval: counters become increments. Pure.

Routers are read at different times, so one of them gives the intervals and the others count at its times what they had
said last. A counter that fell was reset by a restart: all that it counts since is new. What a router counted before it
was first seen is left out; that it came at once would be a lie.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from paceline.planner.pages import Counters, RouterPage
from paceline.policy.scaling.demand import cells_from_histograms
from paceline.policy.scaling.observation import (
    MAX_INTERVALS,
    ArrivalInterval,
    Attainment,
    CompletionCell,
    CompletionInterval,
)

Pages = Mapping[str, Sequence[RouterPage]]
"""By router, oldest first."""

NOTHING: Final = Counters()


def edges_of(pages: Pages, *, since: float) -> list[float]:
    """Ends of intervals, from the last before ``since`` on: the times of the router that was read most often."""
    if not pages:
        return []
    name = max(sorted(pages), key=lambda router: len(pages[router]))
    times = [page.at for page in pages[name]]
    first = max(0, bisect_right(times, since) - 1)
    return times[first:][-MAX_INTERVALS - 1 :]


def increments(pages: Pages, edges: Sequence[float]) -> list[Counters]:
    """What all routers together counted between one edge and the next."""
    total = [NOTHING] * (len(edges) - 1)
    for read in pages.values():
        times = [page.at for page in read]
        at_edges = [_at(read, times, edge) for edge in edges]
        for index, (before, after) in enumerate(pairwise(at_edges)):
            if before is not None and after is not None and before is not after:
                total[index] = _sum(total[index], grown(before.counters, after.counters))
    return total


def grown(before: Counters, after: Counters) -> Counters:
    """What was counted between two pages of one router."""
    if _fell(before, after):
        return after
    return _combine(after, before, -1)


def arrivals_of(edges: Sequence[float], counted: Sequence[Counters]) -> tuple[ArrivalInterval, ...]:
    """As the planner replays them."""
    return tuple(
        ArrivalInterval(
            start=start,
            end=end,
            cells=cells_from_histograms(one.uncached, one.uncached_tokens, one.cached, one.cached_tokens),
        )
        for (start, end), one in zip(pairwise(edges), counted, strict=True)
    )


def completions_of(edges: Sequence[float], counted: Sequence[Counters]) -> tuple[CompletionInterval, ...]:
    """As the planner learns output lengths from them."""
    return tuple(
        CompletionInterval(
            start=start,
            end=end,
            cells=tuple(
                CompletionCell(prompt=prompts // count, count=count, outputs=outputs)
                for count, prompts, outputs in zip(one.answers, one.answer_prompts, one.answer_tokens, strict=True)
                if count
            ),
        )
        for (start, end), one in zip(pairwise(edges), counted, strict=True)
    )


def attainment_of(counted: Sequence[Counters]) -> Attainment | None:
    """How the objective was met; None while too little has ended to say."""
    begun = sum(one.first[1] for one in counted)
    ended = sum(one.ended[2] for one in counted)
    if not begun or not ended:
        return None
    return Attainment(
        requests=begun,
        ttft=sum(one.first[0] for one in counted) / begun,
        itl=sum(one.ended[0] for one in counted) / ended,
        both=sum(one.ended[1] for one in counted) / ended,
    )


def hit_rate_of(counted: Sequence[Counters]) -> float:
    """Share of the prompt tokens that were expected in a cache."""
    cached = sum(one.cached_tokens for one in counted)
    total = cached + sum(one.uncached_tokens for one in counted)
    return cached / total if total else 0.0


def _at(read: Sequence[RouterPage], times: Sequence[float], edge: float) -> RouterPage | None:
    """The last page up to ``edge``; None when the router had not been seen by then."""
    index = bisect_right(times, edge) - 1
    return read[index] if index >= 0 else None


def _fell(before: Counters, after: Counters) -> bool:
    pairs = zip(_flat(before), _flat(after), strict=True)
    return any(now < then for then, now in pairs)


def _flat(counters: Counters) -> tuple[float, ...]:
    one = counters
    return (
        *one.uncached, one.uncached_tokens, *one.cached, one.cached_tokens, *one.answers, *one.answer_prompts,
        *one.answer_tokens, *one.first, *one.ended,
    )  # fmt: skip


def _sum(one: Counters, other: Counters) -> Counters:
    return _combine(one, other, 1)


def _combine(one: Counters, other: Counters, sign: int) -> Counters:
    if other is NOTHING:
        return one

    def each(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
        return tuple(a + sign * b for a, b in zip(left, right, strict=True))

    first, ended = each(one.first, other.first), each(one.ended, other.ended)
    return Counters(
        uncached=each(one.uncached, other.uncached),
        uncached_tokens=one.uncached_tokens + sign * other.uncached_tokens,
        cached=each(one.cached, other.cached),
        cached_tokens=one.cached_tokens + sign * other.cached_tokens,
        answers=each(one.answers, other.answers),
        answer_prompts=each(one.answer_prompts, other.answer_prompts),
        answer_tokens=each(one.answer_tokens, other.answer_tokens),
        first=(first[0], first[1]),
        ended=(ended[0], ended[1], ended[2]),
    )
