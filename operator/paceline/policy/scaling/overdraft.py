"""An account of misses: what was missed beyond the plan is made good later, and what was not missed may be.

The objective is one over time. A change that comes faster than pods start costs requests, whatever is decided, and a
fleet of few engines misses less than it may because there is no half engine. So planned misses are paid in, misses that
happen are taken out. While the account is overdrawn fewer than usual are planned for, as many as make it good within
:data:`PAYBACK_SECONDS`. While there is a balance more are, so that a burst is not served as if it went on for ever.

What a jump of the load cost is a debt that is remembered for longer, and never turns into a balance: engines are held
against the next jump until it is paid.

Called by the planner.
"""

from __future__ import annotations

from typing import Final

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Attainment, PolicyState
from paceline.policy.scaling.settings import ScalingSettings
from paceline.policy.scaling.traffic import Traffic

PAYBACK_SECONDS: Final = 900.0
MOST_SECONDS: Final = 900.0
"""Of planned misses, on either side of the account: older ones are forgotten."""
MOST_DEBT_SECONDS: Final = 3600.0
"""Of planned misses, that engines are held for: as long as a jump is remembered."""
LEAST_PLANNED: Final = 0.2
"""Share of the allowed misses that is always planned with: to miss nothing has no finite price."""
MOST_PLANNED: Final = 1.6
"""The same with the largest balance: twice what is planned for without one."""
LEAST_REQUESTS: Final = 50
"""Fewer say nothing."""


def settle(
    state: PolicyState, traffic: Traffic, measured: Attainment | None, settings: ScalingSettings
) -> tuple[float, float]:
    """By how much it is overdrawn now, in seconds of the misses that are planned for, negative for a balance; and the
    debt that engines are held for.

    ``state``: as the decision before left it. Windows overlap, so each counts for as long as is new in it.
    """
    since, unchanged = state.decided_at, (state.overdrawn, state.debt)
    if measured is None or measured.requests < LEAST_REQUESTS or since is None or not traffic.requests:
        return unchanged
    feasible = traffic.feasible
    planned = PLANNED_MISSES * (1 - settings.target) * feasible
    if planned <= 0:
        return unchanged
    passed = min(max(traffic.end - since, 0.0), traffic.seconds)
    more = (max(0.0, feasible - measured.both) / planned - 1) * passed
    return (
        min(max(-MOST_SECONDS, state.overdrawn + more), MOST_SECONDS),
        min(max(0.0, state.debt + more), MOST_DEBT_SECONDS),
    )


def planned_misses(seconds: float) -> float:
    """Share of the allowed misses to plan with, while the account is overdrawn by ``seconds``."""
    return min(max(LEAST_PLANNED, PLANNED_MISSES * (1 - seconds / PAYBACK_SECONDS)), MOST_PLANNED)
