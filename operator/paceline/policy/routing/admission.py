"""Whether a request that can't run now may wait, and when a refused one should come again."""

from __future__ import annotations

import math
from typing import Final

from paceline.api.wire import Admission

SLOWEST_RELEASE_PER_SECOND: Final = 0.1
"""Below this rate of finished requests the estimate of a wait says nothing any more."""


def may_wait(*, waiting: int, limits: Admission) -> bool:
    """Whether one more request may join those that wait already."""
    return waiting < limits.max_queued_requests


def tenant_part(*, weight: int, weights: int, limits: Admission) -> int:
    """Requests of one tenant that may always wait, however many of others do: its part of the bound by its weight.

    Those who fill the queue keep nobody else out of it. In the worst case twice the bound wait.
    """
    return limits.max_queued_requests * weight // weights


def retry_after_seconds(*, waiting: int, released_per_second: float, limits: Admission) -> int:
    """When to come again: the time the queue takes at the rate at which requests finish, 1 s to the longest wait."""
    if released_per_second < SLOWEST_RELEASE_PER_SECOND:
        return limits.max_queue_seconds
    return max(1, min(limits.max_queue_seconds, math.ceil((waiting + 1) / released_per_second)))
