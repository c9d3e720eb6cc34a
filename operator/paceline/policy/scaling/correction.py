"""What the replay does not know, learned from what was attained: hidden bursts, an imperfect router, slower engines.

The window is replayed with the engines that were ready in it. Where that promises more than was measured, the load is
taken to be that much higher; a factor on the load keeps what a single request needs, and so which ones can be saved,
as it is. On the Mooncake conversation trace, whose arrivals come in batches that a scrape does not show, one factor
explains what 5, 6 and 7 engines attain alike.

While everything is attained there is nothing to learn, and the factor fades to 1. Called by the planner.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from paceline.policy.scaling.demand import scaled
from paceline.policy.scaling.observation import Attainment, Want
from paceline.policy.scaling.prefill_sizing import replay_schedule
from paceline.policy.scaling.traffic import Traffic

LEAST_REQUESTS: Final = 50
"""Fewer say nothing."""
LEAST: Final = 0.8
MOST: Final = 1.5
"""A factor beyond these is not a correction but a model of other engines."""
GAIN: Final = 6.0
"""Relative change of the factor, in one demand window, for each unit of attainment that the replay is off."""
NOTHING_MISSED: Final = 0.01
"""Misses of what can be attained, as a share of all requests, below which a window says nothing."""
FADING: Final = 0.8
"""Power of the factor that one such window leaves of it."""
MOST_QUEUED_SECONDS: Final = 1.0
"""Work for each engine that may have waited when the window began: the replay begins with nothing to do."""
MOST_OFF: Final = 0.1
"""Attainment beyond which the replay is not taken to be further off: one bad window is not the truth."""

_AT: Final = attrgetter("at")


def learn(
    factor: float, traffic: Traffic, measured: Attainment | None, wants: Sequence[Want], *, since: float | None
) -> float:
    """The factor after a while more. ``wants``: past decisions, with the engines that were ready at each.

    ``since``: when it was last learned. Windows overlap, so each teaches in proportion to what is new in it; else one
    bad moment would count as often as there are decisions in a window. A window in which the load changed teaches
    nothing: engines that come late are not slow. One that began with a long line, of which the replay knows nothing,
    teaches only that engines do no better than the replay: as long as they are taken for better, the line may stay. So
    does one of which only the newest part can be replayed, and that had a long line before it: what was attained is
    measured for all of it.
    """
    if measured is None or measured.requests < LEAST_REQUESTS or since is None or not traffic.steady:
        return factor
    schedule = [(want.at, want.ready.prefill + want.ready.both) for want in wants]
    if not schedule or schedule[0][0] > traffic.begin:
        return factor
    first, last = (max(0, bisect_right(wants, at, key=_AT) - 1) for at in (traffic.measured_from, traffic.begin))
    if any(_long_line(want) for want in wants[first : last + 1]):
        return max(factor, 1.0)
    work = scaled(traffic.requests, lambda _: factor)
    if not work:
        return factor
    fresh = min(max(traffic.end - since, 0.0) / (traffic.end - traffic.measured_from), 1.0)
    outcome = replay_schedule(work, schedule, traffic.objective)
    promised, possible = outcome.attained / len(work), outcome.feasible / len(work)
    if promised > possible - NOTHING_MISSED and measured.ttft > possible - NOTHING_MISSED:
        return float(factor ** (FADING**fresh))
    off = min(max(promised - measured.ttft, -MOST_OFF), MOST_OFF)
    return min(max(factor * math.exp(GAIN * fresh * off), LEAST), MOST)


def _long_line(want: Want) -> bool:
    return want.queued_seconds > MOST_QUEUED_SECONDS * max(1, want.ready.prefill + want.ready.both)
