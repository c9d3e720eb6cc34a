"""Misses beyond what the objective allows, and how they are made good: as on an account that may be overdrawn.

A change that comes faster than pods start costs requests, whatever is decided. The objective is one over time, so what
was missed too much is missed less later: while the account is overdrawn, fewer misses than usual are planned with, as
many as pay it back within :data:`PAYBACK_SECONDS`. There is no credit: a quiet hour is no reason to plan for misses.

Called by the planner.
"""

from __future__ import annotations

from typing import Final

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Attainment
from paceline.policy.scaling.settings import ScalingSettings
from paceline.policy.scaling.traffic import Traffic

PAYBACK_SECONDS: Final = 1800.0
LEAST_PLANNED: Final = 0.2
"""Share of the allowed misses that is always planned with: to miss nothing has no finite price."""
LEAST_REQUESTS: Final = 50
"""Fewer say nothing."""


def overdrawn(
    seconds: float, traffic: Traffic, measured: Attainment | None, settings: ScalingSettings, *, since: float | None
) -> float:
    """By how much it is now, in seconds of the misses that are allowed.

    ``seconds``: by how much it was at ``since``, when this was last asked. Windows overlap, so each counts for as long
    as is new in it.
    """
    if measured is None or measured.requests < LEAST_REQUESTS or since is None or not traffic.requests:
        return seconds
    feasible = traffic.feasible
    allowed = (1 - settings.target) * feasible
    if allowed <= 0:
        return seconds
    passed = min(max(traffic.end - since, 0.0), traffic.seconds)
    missed = max(0.0, feasible - measured.both)
    return min(max(0.0, seconds + (missed / allowed - 1) * passed), PAYBACK_SECONDS)


def planned_misses(seconds: float) -> float:
    """Share of the allowed misses to plan with, while the account is overdrawn by ``seconds``."""
    return max(LEAST_PLANNED, PLANNED_MISSES - seconds / PAYBACK_SECONDS)
