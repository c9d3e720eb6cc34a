"""How the load of each role goes, by the arrivals of the demand window: what both horizons are forecast from.

A load that steps up may be a burst. How long it lasts nobody knows; the longer it has, the longer it is likely to go
on: what has lasted for t lasts for h more with a probability of t / (t + h) where nothing is known of its scale (J. R.
Gott, 1993). So where every role's load has stepped up, as much of the step is believed as is likely to be there still
when a pod that is ordered now is ready; changes of role can't help both roles anyhow. Where one role's load rises and
the other's falls the mix has changed, and the step is believed at once.

Called by :func:`paceline.policy.scaling.traffic.measure`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.demand import Request
from paceline.policy.scaling.forecast import Trend, fit_trend

TREND_CAP_SECONDS: Final = 2.0
"""A prompt's work counts up to this for the trend."""


def load_trends(
    requests: Sequence[Request], scrapes: Sequence[tuple[float, float]], roles: Iterable[Role], *, independent: float
) -> dict[Role, Trend]:
    """The trend of each role's load over ``scrapes``, each (begin, end).

    ``independent``: seconds over which deviations go together.
    """
    return {role: _trend(requests, scrapes, _WEIGHTS[role], independent=independent) for role in roles}


def likely_to_last(trends: Mapping[Role, Trend], now: float, *, start_seconds: float) -> Mapping[Role, Trend]:
    """``trends`` with as much of a step of all as is likely to be there still when a pod that is ordered now is ready.

    ``start_seconds``: that it takes to start.
    """
    if not all(trend.steps_up for trend in trends.values()):
        return trends
    return {role: trend.lasting(now, seconds=start_seconds) for role, trend in trends.items()}


def _prefill_weight(request: Request) -> float:
    # Capped: a few huge prompts are half of the load and would be all of its noise.
    return min(request.service_seconds, TREND_CAP_SECONDS)


def _decode_weight(request: Request) -> float:
    return request.output


_WEIGHTS: Final[Mapping[Role, Callable[[Request], float]]] = {
    Role.PREFILL: _prefill_weight,
    Role.DECODE: _decode_weight,
    Role.BOTH: _prefill_weight,
}
"""What one request adds to the load of a role."""


def _trend(
    requests: Sequence[Request],
    intervals: Sequence[tuple[float, float]],
    weight: Callable[[Request], float],
    *,
    independent: float,
) -> Trend:
    weights = [weight(request) for request in requests]
    total = math.fsum(weights)
    loads = []
    first = 0
    for begin, end in intervals:
        last = bisect_left(requests, (end,), lo=first)
        loads.append((begin, end, math.fsum(weights[first:last])))
        first = last
    grain = math.fsum(one * one for one in weights) / total if total else 0.0
    return fit_trend(loads, grain=grain, independent=independent)
