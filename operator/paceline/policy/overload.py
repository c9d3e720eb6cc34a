"""Who need not wait because it would be in vain: one rule for the router and the simulator.

A request is served at the rate at which its part of the line was served lately, so it is known when it comes whether it
can be served before the longest wait is over. If not it is refused at once, not after it has waited.

Late requests are served with what those in time leave, and from the age bound on before everything else
(:mod:`paceline.policy.waiting`). Under a lasting overload those in time leave nothing, all late ones reach the age
bound, and were there enough of them nothing would ever be in time again. So no more of them may wait than a small share
of the capacity serves until then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from paceline.api.wire import Late

LATE_SHARE: Final = 0.05
"""Of the capacity, for requests that are late when more comes than can be served."""
GRACE_SECONDS: Final = 120.0
"""An overload that has not lasted so long may be a burst, or end when the engines that were ordered for it are ready:
late requests may wait for that, and are served in the order of their deadlines as ever.
"""
MARGIN: Final = 0.8
"""Of the time to its latest start that a request may be expected to wait and count as in time: who starts at the last
moment is late by whatever the engine needs longer than expected.
"""
MEMORY_SHARE: Final = 1 / 6
"""Of the longest wait: for so long a rate is remembered."""
DOUBT: Final = 2.0
"""So many times the longest wait is to be expected before somebody is refused for it: engines are added meanwhile."""
EVIDENCE: Final = 0.2
"""Of that time: with less of it a rate says nothing."""
LEAST_SERVED: Final = 3
"""Nor does it with fewer requests: one long prompt would be taken for a standstill."""


class ServedRate:
    """Requests a second that are served while some wait; the time in which none does says nothing about capacity.

    Times are seconds on the caller's clock. What was seen ``memory_seconds`` ago counts for 1/e.
    """

    __slots__ = ("_at", "_count", "_memory", "_seconds", "_served", "_waits")

    def __init__(self, memory_seconds: float) -> None:
        self._memory = memory_seconds
        self._at = 0.0
        self._seconds = 0.0
        self._served = 0.0
        self._count = 0
        """Served since somebody was there to serve."""
        self._waits = False

    def waiting(self, now: float, *, some: bool) -> None:
        """Whether some wait from now on."""
        self._pass(now)
        self._waits = some

    def served(self, now: float, count: int = 1) -> None:
        """So many were served now; -1: the last one got nothing after all."""
        self._pass(now)
        self._served = max(0.0, self._served + count)
        self._count += count

    def per_second(self, now: float) -> float | None:
        """The rate, at best: as if one more were served now. None while nothing is known."""
        self._pass(now)
        if self._seconds < EVIDENCE * self._memory or self._count < LEAST_SERVED:
            return None
        return (self._served + 1) / self._seconds

    def forget(self, now: float) -> None:
        """Nobody was there to serve: the time until now says nothing."""
        self._pass(now)
        self._seconds = self._served = 0.0
        self._count = 0

    def idle(self) -> None:
        """Nobody waits any more; the last one went away at a time that is not known."""
        self._waits = False

    def _pass(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0:
            return
        self._at = now
        if self._waits:
            kept = math.exp(-passed / self._memory)
            self._seconds = self._seconds * kept + self._memory * (1 - kept)
            self._served *= kept


@dataclass(frozen=True, slots=True)
class Prospect:
    """The part of a line that a request would join."""

    in_time: int
    """Requests there that are not late yet."""
    late: int
    late_for: float
    """Seconds for which some have been."""
    per_second: float | None
    """Served of it; None when that is not known."""


class Verdict(Enum):
    """What is known of a request that would join a line."""

    IN_TIME = "in time"
    LATE = "late"
    """It will be, and may wait as one of those."""
    IN_VAIN = "in vain"
    """It would not be served, or be late and one too many of those."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """The rule. ``max_queue_seconds``: longest wait; ``age_bound_seconds``: that of the line."""

    max_queue_seconds: float
    age_bound_seconds: float
    late: Late

    @property
    def memory_seconds(self) -> float:
        """Of the rates that it goes by."""
        return MEMORY_SHARE * self.max_queue_seconds

    def late_places(self, per_second: float | None, late_for: float) -> float:
        """How many late requests may wait where so many are served, and some have been for ``late_for`` seconds."""
        if self.late is Late.REFUSE:
            return 0.0
        if self.late is Late.SERVE or per_second is None:
            return math.inf
        if late_for < GRACE_SECONDS:
            return math.inf
        return max(1.0, LATE_SHARE * per_second * self.age_bound_seconds)

    def expected_wait(self, prospect: Prospect) -> float:
        """Seconds until one more would be served at the latest; 0 when nothing is known."""
        rate = prospect.per_second
        return 0.0 if rate is None else (prospect.in_time + prospect.late) / rate

    def verdict(self, prospect: Prospect, *, slack_seconds: float) -> Verdict:
        """Of a request that would join, ``slack_seconds`` before its latest start."""
        rate = prospect.per_second
        if rate is None:
            return Verdict.IN_TIME
        if self.expected_wait(prospect) > DOUBT * self.max_queue_seconds:
            return Verdict.IN_VAIN
        places = self.late_places(rate, prospect.late_for)
        if math.isinf(places) or prospect.in_time < rate * MARGIN * slack_seconds:
            return Verdict.IN_TIME
        return Verdict.LATE if prospect.late < places else Verdict.IN_VAIN
