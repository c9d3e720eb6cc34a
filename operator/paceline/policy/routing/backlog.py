"""Prefill work that one engine was given: what is left of it by now, as far as that can be known from outside.

An engine computes prompts in the order in which they came and says when one is done, not how far it is. So the time
since the one before was done counts as progress on the first that is not, up to what that one takes: an engine that
hangs never seems to have done more. Used by the router.
"""

from __future__ import annotations

from collections.abc import Hashable


class Backlog:
    """Times are seconds on the caller's clock."""

    __slots__ = ("_since", "_work", "given")

    def __init__(self) -> None:
        self.given = 0.0
        """Seconds of the prompts that are not done."""
        self._work: dict[Hashable, float] = {}
        self._since = 0.0
        """When the first of them was begun."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._work)

    def add(self, work: Hashable, seconds: float, now: float) -> None:
        """One prompt more, known to the caller as ``work``."""
        if not self._work:
            self._since = now
        self._work[work] = seconds
        self.given += seconds

    def done(self, work: Hashable, now: float) -> None:
        """One prompt less, computed or given up. What is not known is passed over."""
        seconds = self._work.get(work)
        if seconds is None:
            return
        if next(iter(self._work)) == work:
            self._since = now
        del self._work[work]
        # Sums of floats drift; nothing to do is exactly nothing.
        self.given = self.given - seconds if self._work else 0.0

    def left(self, now: float) -> float:
        """Seconds until all of it is done."""
        if not self._work:
            return 0.0
        return self.given - min(next(iter(self._work.values())), now - self._since)
