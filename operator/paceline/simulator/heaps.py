"""The least loaded of many engines in O(log n), though loads change all the time."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

_SLACK: Final = 64


class Numbered(Protocol):
    """What can be in a heap: ties go to the lower number."""

    number: int


N = TypeVar("N", bound=Numbered)


class LazyHeap(Generic[N]):
    """Items by key. A changed key is pushed anew; entries of old keys are dropped when they come to the top."""

    __slots__ = ("_heap", "_keys", "_room")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, N]] = []
        self._keys: dict[int, float] = {}
        self._room = _SLACK
        """Pushes until the heap is swept."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item: N) -> bool:
        return item.number in self._keys

    def set(self, item: N, key: float) -> None:
        """Add an item, or change its key."""
        number = item.number
        if self._keys.get(number) == key:
            return
        self._keys[number] = key
        heappush(self._heap, (key, number, item))
        self._room -= 1
        if not self._room:
            self._sweep()

    def discard(self, item: N) -> None:
        """Take an item out, if it is there."""
        self._keys.pop(item.number, None)

    def _sweep(self) -> None:
        """Drop what is outdated, so that the heap stays within a multiple of what is in it."""
        keys = self._keys
        self._heap = [entry for entry in self._heap if keys.get(entry[1]) == entry[0]]
        heapify(self._heap)
        self._room = 3 * len(keys) + _SLACK

    def least(self) -> N | None:
        """The item with the lowest key; None when there is none."""
        heap, keys = self._heap, self._keys
        while heap:
            key, number, item = heap[0]
            if keys.get(number) == key:
                return item
            heappop(heap)
        return None
