"""Tokens a minute: what a tenant may use, and when it may come again. Routers keep one for each."""

from __future__ import annotations

import math
from typing import Final

SECONDS: Final = 60.0
EXACT: Final = 1e-6
"""Tokens; sums of floats differ by less."""


class TokenQuota:
    """A bucket that holds the tokens of one minute and fills up evenly. It begins full.

    What a request will need is taken when it comes, and put right when it has ended. So the bucket may be in debt,
    after answers that were longer than expected; then nothing is given until time has paid it back. Over any long time
    no more than ``per_minute`` is used, whatever was expected. Times are seconds on the caller's clock.
    """

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        """Tokens that are left; less than 0 in debt."""
        self._level = min(float(self.per_minute), self._level + (now - self._at) * self.per_minute / SECONDS)
        self._at = now
        return self._level

    def wait_seconds(self, tokens: float, now: float) -> int:
        """Whole seconds until ``tokens`` can be taken, if nothing else is; 0: now.

        A request that needs more than a minute's tokens can have them when the bucket is full: it pays afterwards.
        """
        missing = min(tokens, self.per_minute) - self.level(now)
        return 0 if missing <= EXACT else math.ceil(missing * SECONDS / self.per_minute)

    def take(self, tokens: float, now: float) -> None:
        """Use ``tokens``; fewer than 0 are given back."""
        self._level = min(float(self.per_minute), self.level(now) - tokens)
