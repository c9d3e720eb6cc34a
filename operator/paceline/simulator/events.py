"""Virtual time: a heap of things to come. Everything in the simulator that takes time goes through it."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class EventLoop:
    """Calls handlers in order of time; those of the same time in the order in which they were added."""

    __slots__ = ("_added", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start of the simulation. Never goes back."""
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._added = 0

    def at(self, seconds: float, handler: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``handler(argument)`` at ``seconds``, or now if that is past.

        There is no cancelling: a handler whose reason has gone finds that out by itself.
        """
        self._added = added = self._added + 1
        heappush(self._heap, (max(seconds, self.now), added, handler, argument))

    @property
    def next_at(self) -> float:
        """When the next event is due; infinite if there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def run_until(self, seconds: float) -> None:
        """Run everything that is due by then, and let that be the present."""
        heap = self._heap
        while heap and heap[0][0] <= seconds:
            self.now, _, handler, argument = heappop(heap)
            handler(argument)
        self.now = seconds

    def run_next(self) -> None:
        """Run one event. There must be one."""
        self.now, _, handler, argument = heappop(self._heap)
        handler(argument)
