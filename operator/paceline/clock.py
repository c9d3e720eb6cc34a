"""Time as a value that is passed in: the wall clock in production, a virtual one in tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the present comes from."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump."""
        ...


class WallClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return time.monotonic()

    def wall(self) -> float:
        """See :class:`Clock`."""
        return time.time()


def timestamp(clock: Clock) -> str:
    """The present as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class VirtualClock:
    """A clock that moves only when told to."""

    __slots__ = ("_epoch", "_now")

    def __init__(self, *, epoch: float = 0.0) -> None:
        self._epoch = epoch
        self._now = 0.0

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return self._now

    def wall(self) -> float:
        """See :class:`Clock`."""
        return self._epoch + self._now

    def advance(self, seconds: float) -> None:
        """Move forward. Raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError(f"a clock can't go back: {seconds} s")
        self._now += seconds


class FasterClock:
    """A clock that runs ``speed`` times as fast as ``clock``: the time of engines that are emulated faster."""

    __slots__ = ("_begin", "_clock", "_epoch", "_speed")

    def __init__(self, clock: Clock, speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._begin = clock.monotonic()
        self._epoch = clock.wall()

    def monotonic(self) -> float:
        """See :class:`Clock`."""
        return (self._clock.monotonic() - self._begin) * self._speed

    def wall(self) -> float:
        """See :class:`Clock`."""
        return self._epoch + self.monotonic()
