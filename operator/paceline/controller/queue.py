"""The work queue: which ModelDeployments need a look, and when. Fed by watches, timers and passes themselves.

A key waits at most once, is never looked at by two workers at a time, and comes back later and later while its passes
fail.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from prometheus_client import Gauge

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS: Final = 0.5
LONGEST_BACKOFF_SECONDS: Final = 60.0


class WorkQueue(Generic[K]):
    """Keys, each with the time from which it is due. Bounded by the number of keys that there are."""

    def __init__(self, length: Gauge) -> None:
        self._length = length
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, after_seconds: float = 0.0) -> None:
        """Have ``key`` looked at, in ``after_seconds`` at the latest."""
        due = asyncio.get_running_loop().time() + after_seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
            self._length.set(len(self._due))
            self._changed.set()

    def retry(self, key: K) -> float:
        """Have ``key`` looked at after a pause that grows with each failure in a row; the pause in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, keeps no secret
        self.add(key, pause)
        return pause

    def succeeded(self, key: K) -> None:
        """The next failure of ``key`` is a first one again."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key that is due and that nobody works on. Call :meth:`done` with it."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            key, wait = self._next(loop.time())
            if key is not None:
                self._due.pop(key)
                self._busy.add(key)
                self._length.set(len(self._due))
                # There may be more for another worker.
                self._changed.set()
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: K) -> None:
        """Nobody works on ``key`` any more."""
        self._busy.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], next(self._order), key))
            self._changed.set()

    def _next(self, now: float) -> tuple[K | None, float | None]:
        """A key that is due, or how long to wait for one."""
        while self._heap:
            due, _, key = self._heap[0]
            # Entries of keys that were taken or moved forward stay behind; those of busy keys come back with done().
            if self._due.get(key) != due or key in self._busy:
                heapq.heappop(self._heap)
                continue
            if due > now:
                return None, due - now
            heapq.heappop(self._heap)
            return key, None
        return None, None
