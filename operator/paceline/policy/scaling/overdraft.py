"""An account of misses: what was missed beyond the plan is made good later, and what was not missed may be.

The objective is a share of the requests over time. A change that comes faster than pods start costs requests, whatever
is decided, and a fleet of few engines misses less than it may because there is no half engine. So planned misses are
paid in, misses that happen are taken out. Those are the allowed ones less a part for chance, which takes a share that
falls with √n of n requests. While the account is overdrawn fewer than usual are planned for, as many as make it good
within :data:`PAYBACK_SECONDS`, or sooner where that share is small. While there is a balance more are, so that a burst
is not served as if it went on for ever.

It is kept in requests, as the objective counts them: what was missed at a tenth of the load is soon made good. What
that means for a plan is how long it takes until the present load may have missed as many.

What jumps of the load cost is a debt that is remembered for longer. Engines are held against the next jump until the
debt is paid and the next one is paid for: until there is a balance as large as what the largest jump of late has cost.
What quiet hours have left of the allowed misses counts towards it for hours: who misses nothing for most of the day may
miss more in a bad quarter of an hour, and needs no engines that wait for the next one.

Called by the planner.
"""

from __future__ import annotations

import math
from typing import Final

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Account, Attainment
from paceline.policy.scaling.settings import ScalingSettings
from paceline.policy.scaling.traffic import Traffic

PAYBACK_SECONDS: Final = 1400.0
"""With so few requests that chance is left all there is for it; with more in proportion to what it is left: what many
requests say of the plan is known sooner.
"""
LEAST_PAYBACK_SECONDS: Final = 400.0
"""A few times what a pod takes to start: a fleet that followed faster would swing."""
MOST_SECONDS: Final = 900.0
"""Of planned misses, on either side of the account: older ones are forgotten."""
MOST_DEBT_SECONDS: Final = 3600.0
"""Of planned misses, that engines are held for."""
MOST_PAID_SECONDS: Final = 4 * 3600.0
"""Of planned misses, that quiet hours pay towards jumps to come."""
JUMP_MEMORY_SECONDS: Final = 3600.0
"""Within which a jump's cost fades to a third: as long as its size is remembered."""
CHANCE_REQUESTS: Final = 2000
"""In the demand window: with so many, or fewer, chance is left as much as :data:`PLANNED_MISSES` says."""
LEAST_PLANNED: Final = 0.2
"""Share of the allowed misses that is always planned with: to miss nothing has no finite price."""
MOST_PLANNED: Final = 1.6
"""The same with the largest balance."""
LEAST_REQUESTS: Final = 50
"""Fewer say nothing."""


def settle(
    account: Account, traffic: Traffic, measured: Attainment | None, settings: ScalingSettings, *, since: float | None
) -> Account:
    """The account with what happened since it was last settled, at ``since``.

    Windows overlap, so each counts for as long as is new in it.
    """
    if measured is None or measured.requests < LEAST_REQUESTS or since is None or not traffic.requests:
        return account
    feasible, arrivals = traffic.feasible, traffic.request_rate
    share = planned_share(len(traffic.requests))
    planned = share * (1 - settings.target) * feasible * arrivals
    if planned <= 0:
        return account
    passed = min(max(traffic.end - since, 0.0), traffic.seconds)
    more = (max(0.0, feasible - measured.both) * arrivals - planned) * passed
    most = MOST_SECONDS * planned
    rise = min(max(0.0, account.rise + more), most)
    return Account(
        share=share,
        planned=planned,
        overdrawn=min(max(-most, account.overdrawn + more), most),
        debt=min(max(-MOST_PAID_SECONDS * planned, account.debt + more), MOST_DEBT_SECONDS * planned),
        rise=rise,
        jump=min(max(rise, account.jump * math.exp(-passed / JUMP_MEMORY_SECONDS)), most),
    )


def planned_misses(account: Account) -> float:
    """Share of the allowed misses to plan with."""
    seconds = account.overdrawn / account.planned if account.planned > 0 else 0.0
    share = PLANNED_MISSES if account.share is None else account.share
    payback = max(LEAST_PAYBACK_SECONDS, PAYBACK_SECONDS * (1 - share) / (1 - PLANNED_MISSES))
    return min(max(LEAST_PLANNED, share * (1 - seconds / payback)), MOST_PLANNED)


def planned_share(requests: int) -> float:
    """Of the allowed misses, that is planned for with so many requests in the demand window and nothing overdrawn."""
    return 1 - (1 - PLANNED_MISSES) * math.sqrt(min(1.0, CHANCE_REQUESTS / max(1, requests)))


def indebted(account: Account) -> bool:
    """Whether engines are to be held against the next jump of the load."""
    return account.debt > -account.jump
