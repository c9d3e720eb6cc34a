"""Which engines generate far more slowly than the others at the same load. Pure: time is passed in.

A stream's mean time between tokens is divided by what the engine model expects of the work that the engine had; so
engines compare whatever they are given, and an error of the model hits all of them alike. Only engines of one hardware
pool are compared. An engine is slow when three of four of its last streams were slower than FACTOR times the median of
its siblings', for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from paceline.policy.quantiles import reached

FACTOR: Final = 3.0
WINDOW: Final = 16
"""Streams of an engine that are kept."""
WINDOW_SECONDS: Final = 300.0
LEAST_STREAMS: Final = 6
LEAST_TOKENS: Final = 16
"""Of a stream: the gaps of shorter ones are noise."""
SLOW_SECONDS: Final = 15.0
"""Time between the first and the last of the streams that show it: a pause is no slowness."""


class Slow(NamedTuple):
    """An engine that is slow, and how much: times what the model expects, and the same of its siblings."""

    engine: str
    own: float
    others: float

    @property
    def words(self) -> str:
        """For a person."""
        return f"its tokens come {self.own / self.others:.1f} times as slowly as its siblings' at the same load"


class Pace:
    """The last streams of all engines of one deployment."""

    def __init__(self) -> None:
        self._ratios: dict[str, deque[tuple[float, float]]] = {}
        self._pools: dict[str, str] = {}
        self._changed: set[str] = set()

    def note(self, engine: str, pool: str, now: float, *, gap_seconds: float, expected_seconds: float) -> None:
        """A stream had so long between its tokens."""
        if expected_seconds <= 0:
            return
        kept = self._ratios.setdefault(engine, deque(maxlen=WINDOW))
        kept.append((now, gap_seconds / expected_seconds))
        self._pools[engine] = pool
        self._changed.add(engine)

    def keep(self, engines: Iterable[str]) -> None:
        """Forget all others."""
        known = set(engines)
        for gone in [name for name in self._ratios if name not in known]:
            self.forget(gone)

    def forget(self, engine: str) -> None:
        """It is out, or back."""
        self._ratios.pop(engine, None)
        self._pools.pop(engine, None)
        self._changed.discard(engine)

    def slow(self, now: float, *, out: Mapping[str, object]) -> list[Slow]:
        """Engines that are slow now. ``out``: those that get no work, and are not compared with."""
        changed, self._changed = self._changed, set()
        if not changed:
            return []
        lately = {name: self._lately(name, now) for name in self._ratios if name not in out}
        medians = {
            name: reached([ratio for _, ratio in kept], 0.5)
            for name, kept in lately.items()
            if len(kept) >= LEAST_STREAMS
        }
        found = []
        for name in changed & medians.keys():
            siblings = [
                median for other, median in medians.items() if other != name and self._pools[other] == self._pools[name]
            ]
            if not siblings:
                continue
            kept, others = lately[name], sorted(siblings)[(len(siblings) - 1) // 2]
            own = reached([ratio for _, ratio in kept], 0.25)
            if own > FACTOR * others and kept[-1][0] - kept[0][0] >= SLOW_SECONDS:
                found.append(Slow(name, own, others))
        return found

    def _lately(self, engine: str, now: float) -> list[tuple[float, float]]:
        return [one for one in self._ratios[engine] if one[0] >= now - WINDOW_SECONDS]
