"""How soon an engine that did not get ready in time is replaced once more: each try waits twice as long as the last.

What kept the last one from getting ready (no node, a quota, an image) will most likely keep the next one, too; without
pauses every look would replace it again. The planner of one deployment keeps one of these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from paceline.planner.observe import EnginePod
from paceline.policy.scaling.observation import EngineLoad

LONGEST_PAUSE_SECONDS: Final = 3600.0
MOST_DOUBLINGS: Final = 10
"""More would exceed the longest pause whatever the deadline, and end in numbers without a meaning."""


class Patience:
    """Remembers when engines were replaced last, and how often in a row that did not help."""

    def __init__(self) -> None:
        self._tries = 0
        self._next_at = 0.0
        self._started = 0

    def mark(self, engines: Sequence[EnginePod], now: float) -> tuple[EnginePod, ...]:
        """The same engines, with what is to wait marked as such. It counts only for those that are late."""
        return tuple(replace(one, retry_later=now < self._next_at) for one in engines)

    def tried(
        self, late: Sequence[EngineLoad], leaving: Collection[str], now: float, *, deadline: float, started: int
    ) -> bool:
        """Take note of what became of ``late`` engines; whether some of them are replaced now.

        ``deadline``: seconds that an engine has to get ready. ``started``: engines that ever got ready.
        """
        replaced = any(one.name in leaving for one in late)
        if started > self._started or not (late or now < self._next_at + deadline):
            # Engines get ready again, or none has been late for as long as the last try had time.
            self._started, self._tries, self._next_at = started, 0, 0.0
        if replaced and now >= self._next_at:
            self._next_at = now + min(LONGEST_PAUSE_SECONDS, deadline * 2.0 ** min(self._tries, MOST_DOUBLINGS))
            self._tries += 1
        return replaced
