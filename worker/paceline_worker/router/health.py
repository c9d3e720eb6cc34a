"""Whether an engine answers: active checks and what requests meet, in one small state machine per engine."""

from __future__ import annotations

from typing import Final

FAILURES_TO_EJECT: Final = 3
"""Failures in a row, of checks and requests alike; an engine that refuses connections is out at the first."""
CHECK_SECONDS: Final = 1.0
FIRST_BACKOFF_SECONDS: Final = 0.1
LONGEST_BACKOFF_SECONDS: Final = 5.0
FIRST_HOLD_SECONDS: Final = 30.0
"""How long an engine rests that answered checks and served nobody: its next check would be answered, too."""
LONGEST_HOLD_SECONDS: Final = 480.0


class Health:
    """Usable until shown otherwise: the fleet only calls engines ready whose worker has seen a warm-up succeed."""

    __slots__ = ("_backoff", "_failures", "_hangs", "ejections", "usable")

    def __init__(self) -> None:
        self.usable = True
        self.ejections = 0
        self._failures = 0
        self._hangs = 0
        self._backoff = FIRST_BACKOFF_SECONDS

    @property
    def next_check_seconds(self) -> float:
        """Pause before the next active check: short at first after an ejection, longer each time it fails."""
        return CHECK_SECONDS if self.usable else self._backoff

    def request_succeeded(self) -> None:
        """A request was answered. Does not bring an ejected engine back: that answer may be an old one."""
        self._failures = self._hangs = 0

    def failed(self, *, refused: bool) -> bool:
        """A check or a request failed. True when the engine is ejected by it."""
        self._failures += 1
        if self.usable and (refused or self._failures >= FAILURES_TO_EJECT):
            self.usable = False
            self.ejections += 1
            self._backoff = FIRST_BACKOFF_SECONDS
            return True
        return False

    def hung(self) -> bool:
        """It answers checks, and its streams stand still: ejected, for longer each time. False when it was already."""
        if not self.usable:
            return False
        self.usable = False
        self.ejections += 1
        self._backoff = min(LONGEST_HOLD_SECONDS, FIRST_HOLD_SECONDS * 2**self._hangs)
        self._hangs += 1
        return True

    def check_failed(self, *, refused: bool) -> bool:
        """An active check failed. True when the engine is ejected by it."""
        if not self.usable:
            self._backoff = min(LONGEST_BACKOFF_SECONDS, self._backoff * 2)
        return self.failed(refused=refused)

    def check_succeeded(self) -> bool:
        """An active check was answered. True when it brings the engine back."""
        self._failures = 0
        back, self.usable = not self.usable, True
        return back
