"""Engines that get no more work for a while because they stand out: never more than a share of them, and never the last
one of a role. Each comes back by itself, to be seen again; one that stands out again stays out for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

DOUBLINGS: Final = 4
"""Of the first stay, to the longest one."""
CLEARED_SECONDS: Final = 600.0
"""Without standing out again, after which an engine counts as one that never did."""
EXCUSED_SECONDS: Final = 1800.0
"""How long a reason does not count against an engine whose siblings have turned out to be alike."""


@dataclass(frozen=True, slots=True)
class Stay:
    """An engine's time out."""

    engine: str
    reason: str
    words: str
    since: float
    until: float
    out: bool
    """False where it only should be out: by its mode, or because too few would be left."""


class Quarantine:
    """Who is out, who was, and who may be."""

    def __init__(self, *, max_out_percent: int, first_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._percent = max_out_percent
        self._stays: dict[str, Stay] = {}
        self._strikes: dict[str, tuple[int, float]] = {}
        """How often each was out, and when it came back."""
        self._excused: dict[tuple[str, str], float] = {}

    @property
    def stays(self) -> Mapping[str, Stay]:
        """Of engines that are out, or should be."""
        return self._stays

    def suspects(self, now: float) -> list[str]:
        """Engines that came back and are not cleared yet."""
        return [name for name, (_, back) in self._strikes.items() if back <= now < back + CLEARED_SECONDS]

    def keep(self, engines: Collection[str]) -> None:
        """Forget all others."""
        for gone in [name for name in self._stays if name not in engines]:
            del self._stays[gone]
        for gone in [name for name in self._strikes if name not in engines]:
            del self._strikes[gone]
        for key in [key for key in self._excused if key[0] not in engines]:
            del self._excused[key]

    def take_out(
        self,
        engine: str,
        reason: str,
        words: str,
        now: float,
        *,
        act: bool,
        engines: int,
        others: Iterable[int],
    ) -> Stay | None:
        """Have an engine out of ``engines`` in all. ``others``: usable ones beside it, of each role that it serves.

        None where it is excused, or out already.
        """
        if engine in self._stays or now < self._excused.get((engine, reason), now):
            return None
        strikes, back = self._strikes.get(engine, (0, now))
        if now - back > CLEARED_SECONDS:
            strikes = 0
        seconds = self._first_seconds * 2 ** min(DOUBLINGS, strikes)
        allowed = max(1, engines * self._percent // 100)
        spared = sum(stay.out for stay in self._stays.values()) >= allowed or min(others, default=0) < 1
        stay = Stay(engine, reason, words, now, now + seconds, out=act and not spared)
        self._stays[engine] = stay
        self._strikes[engine] = (strikes + 1, stay.until)
        return stay

    def due(self, now: float) -> list[Stay]:
        """Take back those whose time is over."""
        return self._let_back(now, lambda stay: stay.until <= now)

    def excuse(self, engine: str, now: float) -> Stay | None:
        """Its siblings are alike: take it back, and don't hold this reason against it for a while."""
        stay = self._stays.get(engine)
        if stay is None:
            return None
        self._let_back(now, lambda one: one is stay)
        self._strikes.pop(engine, None)
        self._excused[engine, stay.reason] = now + EXCUSED_SECONDS
        return stay

    def need(self, engines: Collection[str], now: float) -> list[Stay]:
        """No other of their role is left: take them back, well or not."""
        return self._let_back(now, lambda stay: stay.out and stay.engine in engines)

    def _let_back(self, now: float, which: Callable[[Stay], bool]) -> list[Stay]:
        back = [stay for stay in self._stays.values() if which(stay)]
        for stay in back:
            del self._stays[stay.engine]
            strikes, _ = self._strikes.get(stay.engine, (1, now))
            self._strikes[stay.engine] = (strikes, now)
        return back
