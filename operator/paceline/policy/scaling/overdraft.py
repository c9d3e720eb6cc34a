"""An account of misses: what was missed beyond the plan is made good later, and what was not missed may be.

The objective is one over time. A change that comes faster than pods start costs requests, whatever is decided, and a
fleet of few engines misses less than it may because there is no half engine. So planned misses are paid in, misses that
happen are taken out. While the account is overdrawn fewer than usual are planned for, as many as make it good within
:data:`PAYBACK_SECONDS`. While there is a balance more are, so that a burst is not served as if it went on for ever.

Called by the planner.
"""

from __future__ import annotations

from typing import Final

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Attainment
from paceline.policy.scaling.settings import ScalingSettings
from paceline.policy.scaling.traffic import Traffic

PAYBACK_SECONDS: Final = 900.0
MOST_SECONDS: Final = 900.0
"""Of planned misses, on either side of the account: older ones are forgotten."""
LEAST_PLANNED: Final = 0.2
"""Share of the allowed misses that is always planned with: to miss nothing has no finite price."""
MOST_PLANNED: Final = 1.6
"""The same with the largest balance: twice what is planned for without one."""
LEAST_REQUESTS: Final = 50
"""Fewer say nothing."""


def overdrawn(
    seconds: float, traffic: Traffic, measured: Attainment | None, settings: ScalingSettings, *, since: float | None
) -> float:
    """By how much it is now, in seconds of the misses that are planned for; negative for a balance.

    ``seconds``: by how much it was at ``since``, when this was last asked. Windows overlap, so each counts for as long
    as is new in it.
    """
    if measured is None or measured.requests < LEAST_REQUESTS or since is None or not traffic.requests:
        return seconds
    feasible = traffic.feasible
    planned = PLANNED_MISSES * (1 - settings.target) * feasible
    if planned <= 0:
        return seconds
    passed = min(max(traffic.end - since, 0.0), traffic.seconds)
    missed = max(0.0, feasible - measured.both)
    return min(max(-MOST_SECONDS, seconds + (missed / planned - 1) * passed), MOST_SECONDS)


def planned_misses(seconds: float) -> float:
    """Share of the allowed misses to plan with, while the account is overdrawn by ``seconds``."""
    return min(max(LEAST_PLANNED, PLANNED_MISSES * (1 - seconds / PAYBACK_SECONDS)), MOST_PLANNED)
