"""How long a need is remembered before engines go: longer the more the load has jumped, while jumps cost too much.

A rise that comes faster than a pod starts can only be served by engines that are there already. How much more the load
needed than what had been planned for it one start time before says how large such rises are, and so does a fall of the
same speed, before the first rise; the scale-down window grows with the square of the largest of the last hour. Noise
leaves it as it is, a forecast ramp too, and a burst of 4x makes it 16 times as long, up to half an hour: long enough to
hold engines from one burst to the next. That is worth its price only where such jumps have cost more misses than the
objective allows, and until those are made good: a load that jumps and meets its objective all the same needs no more.
Nor are more held than hindsight shows to be plenty: what a jump made the planner start is not always what it needed.
And where jumps have come again and again, and the next one is overdue, they are taken to be over.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.observation import MAX_WANTS, Counts, Want
from paceline.policy.scaling.settings import ScalingSettings

MEMORY_SECONDS: Final = 3600.0
"""How long a jump is remembered."""
HELD_SECONDS: Final = 1800.0
"""The longest window that it makes: bursts that come back later cost less than engines that wait for them."""

LEAST_JUMPS: Final = 2
JUMP: Final = 1.5
"""Times what had been planned for it one start time before: a need that is as large begins a jump."""
OVERDUE: Final = 1.25
"""Times the longest wait for a jump of the last hour: one that has not come by then is not waited for."""
CONFIRMED_SECONDS: Final = 35.0
"""In the first moments after a step it looks like the beginning of a steep rise. What only a forecast asks for waits
until two looks more foresee it, of which there is one every 15 s; where they are rarer it waits for fewer, or none.
"""

_AT: Final = attrgetter("at")


def down_window(wants: Sequence[Want], settings: ScalingSettings, *, start_seconds: float, indebted: bool) -> float:
    """Seconds for which a need keeps engines. ``indebted``: whether jumps have cost more than they may."""
    base = settings.down_window_seconds
    if not (settings.adaptive_window and indebted) or overdue(wants, start_seconds=start_seconds):
        return base
    return min(max(base, HELD_SECONDS), base * surprise(wants, start_seconds=start_seconds) ** 2)


def surprise(wants: Sequence[Want], *, start_seconds: float) -> float:
    """By how much the load has jumped within one start time, up or down; at least 1.

    Up: the largest ratio of a near need to what had been planned for that time. Down: the largest by which what is
    planned fell. What has gone so fast may come back as fast.
    """
    largest = 1.0
    for index, want in enumerate(wants):
        before = bisect_right(wants, want.at - start_seconds, hi=index, key=_AT) - 1
        if before >= 0:
            planned = wants[before].far.total
            largest = max(largest, want.near.total / max(1, planned), planned / max(1, want.far.total))
    return largest


def overdue(wants: Sequence[Want], *, start_seconds: float) -> bool:
    """Whether the next jump of the load should have come by now.

    By the times from one to the next, and to the first one that is remembered, once two have come: of one alone nobody
    knows when it comes again.
    """
    begun: list[float] = []
    rose = False
    for index, want in enumerate(wants):
        before = bisect_right(wants, want.at - start_seconds, hi=index, key=_AT) - 1
        rises = before >= 0 and want.near.total >= JUMP * max(1, wants[before].far.total)
        if rises and not rose and (not begun or want.at > begun[-1] + start_seconds):
            begun.append(want.at)
        rose = rises
    if len(begun) < LEAST_JUMPS:
        return False
    longest = max(later - earlier for earlier, later in pairwise([wants[0].at, *begun]))
    return wants[-1].at > begun[-1] + OVERDUE * longest


def remember_want(wants: Sequence[Want], want: Want, settings: ScalingSettings) -> tuple[Want, ...]:
    """``wants`` with one more; what is older than any window is forgotten."""
    oldest = want.at - max(MEMORY_SECONDS, settings.down_window_seconds)
    kept = [*wants[bisect_left(wants, oldest, key=_AT) :], want]
    return tuple(kept[-MAX_WANTS:])


def kept_need(
    wants: Sequence[Want],
    roles: Sequence[Role],
    settings: ScalingSettings,
    *,
    since: float,
    plenty: int | None = None,
) -> int:
    """Engines of ``roles`` together that are not to go, by what was planned at the decisions from ``since`` on.

    The most of the plain scale-down window. Of what came before, which is only remembered because the load has jumped,
    what was needed for moments is left out: as many requests may miss the objective. So is what is more than
    ``plenty``, where that is known (:func:`~paceline.policy.scaling.hindsight.plenty`).
    """
    newest = wants[-1].at - settings.down_window_seconds
    recent = max((_of(want.far, roles) for want in wants[bisect_left(wants, newest, key=_AT) :]), default=0)
    needs = sorted(_of(want.far, roles) for want in wants[bisect_left(wants, since, key=_AT) :])
    before = needs[math.ceil(settings.target * len(needs)) - 1] if needs else 0
    return max(recent, before if plenty is None else min(before, plenty))


def lasting_need(wants: Sequence[Want], role: Role, *, since: float) -> int:
    """Engines that a role needed for the near horizon at every decision from ``since`` on; 0 if that is not known."""
    if not wants or wants[0].at > since:
        return 0
    return min((want.near.of(role) for want in wants[bisect_left(wants, since, key=_AT) :]), default=0)


def confirmed_needs(
    foreseen: Mapping[Role, int], near: Mapping[Role, int], wants: Sequence[Want], *, now: float
) -> dict[Role, int]:
    """``foreseen`` without what neither ``near`` nor every look of the last :data:`CONFIRMED_SECONDS` asks for, counted
    for all roles together; no role is left with less than its near need.
    """
    recent = [
        want.foreseen.total for want in wants[bisect_left(wants, now - CONFIRMED_SECONDS, key=_AT) :] if want.foreseen
    ]
    total = sum(foreseen.values())
    most = max(sum(near.values()), min(recent, default=total))
    if total <= most:
        return dict(foreseen)
    return {role: max(min(near[role], engines), engines * most // total) for role, engines in foreseen.items()}


def recent_near_need(wants: Sequence[Want], role: Role, *, since: float) -> int:
    """Most engines that a role needed for the near horizon at any decision from ``since`` on."""
    return max((want.near.of(role) for want in wants[bisect_left(wants, since, key=_AT) :]), default=0)


def _of(counts: Counts, roles: Sequence[Role]) -> int:
    return sum(counts.of(role) for role in roles)
