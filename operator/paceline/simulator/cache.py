"""Which prefix blocks an engine holds, in which tier: an exact LRU that costs a fraction of a microsecond a block.

Every use of a prompt touches its whole prefix, from the first block on, and evicts tails before heads. So what a
tier (and all tiers above it) holds is closed under prefixes, and the longest match is found by bisection instead of
block by block. Recency is kept by prompt, not by block: a touch stamps all blocks in one call and queues the prompt
once; eviction walks the queue and skips the blocks that were stamped again since.

The emulator's :class:`paceline.policy.engine.blockcache.BlockCache` names and counts single GPU blocks, which a
cache event on the wire needs and a simulation of a million requests can't afford.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_SLACK: Final = 1024
"""Queued blocks that a tier may hold beyond twice its content before it is tidied up."""


def leading(held: Mapping[int, object], blocks: Sequence[int], low: int, high: int) -> int:
    """How many of ``blocks[:high]`` are held without a gap, given that the first ``low`` count as held.

    ``held`` must be closed under prefixes within ``blocks[low:high]``.
    """
    if low >= high or blocks[low] not in held:
        return low
    if blocks[high - 1] in held:
        return high
    low += 1
    while low < high:
        middle = (low + high) // 2
        if blocks[middle] in held:
            low = middle + 1
        else:
            high = middle
    return low


class Tier:
    """One LRU of blocks. Not more than ``capacity`` after each :meth:`shrink`."""

    __slots__ = ("_queue", "_queued", "_stamp", "capacity", "held")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: dict[int, int] = {}
        """Block to the stamp of its last use."""
        self._queue: deque[tuple[int, list[int]]] = deque()
        """Prompts in order of use: stamp, blocks."""
        self._queued = 0
        self._stamp = 0

    def touch(self, blocks: Sequence[int]) -> None:
        """Blocks of one prefix, in its order, are the most recently used now."""
        if not blocks:
            return
        self._stamp = stamp = self._stamp + 1
        self.held.update(dict.fromkeys(blocks, stamp))
        self._queue.append((stamp, list(blocks)))
        self._queued += len(blocks)
        if self._queued > 2 * len(self.held) + _SLACK:
            self._tidy()

    def shrink(self, capacity: int) -> list[list[int]]:
        """Evict the least recently used beyond ``capacity`` blocks, tails first.

        Returns them in parts of prompts, the least recently used first, each in the order of its prefix.
        """
        held, queue = self.held, self._queue
        evicted: list[list[int]] = []
        while (excess := len(held) - capacity) > 0:
            stamp, blocks = queue.popleft()
            self._queued -= len(blocks)
            if held.get(blocks[-1]) != stamp:
                continue  # used later, all of them
            gone = self._current(stamp, blocks)
            if len(gone) > excess:
                kept = gone[:-excess]
                gone = gone[-excess:]
                queue.appendleft((stamp, kept))
                self._queued += len(kept)
            for block in gone:
                del held[block]
            evicted.append(gone)
        return evicted

    def forget(self, blocks: Iterable[int]) -> None:
        """Drop a prefix, because a faster tier holds it now."""
        for block in blocks:
            self.held.pop(block, None)

    def _current(self, stamp: int, blocks: list[int]) -> list[int]:
        """Blocks whose last use is that of ``stamp``: what was used later is a prefix of them, so these are a tail."""
        held = self.held
        if not blocks or held.get(blocks[0]) == stamp:
            return blocks
        return blocks[bisect_left(blocks, True, key=lambda block: held.get(block) == stamp) :]

    def _tidy(self) -> None:
        """Forget uses that were followed by later ones."""
        queue = ((stamp, self._current(stamp, blocks)) for stamp, blocks in self._queue)
        self._queue = deque((stamp, blocks) for stamp, blocks in queue if blocks)
        self._queued = len(self.held)


class PrefixCache:
    """The tiers of one engine, fastest first, and the tier that all engines share. What falls out of one tier goes into
    the next.
    """

    __slots__ = ("_lower", "_seconds", "_shared", "_shared_seconds", "_top")

    def __init__(
        self,
        capacity: int,
        *,
        lower: Sequence[tuple[int, float]] = (),
        shared: Tier | None = None,
        shared_seconds: float = 0.0,
    ) -> None:
        """Capacities in blocks. ``lower``: (capacity, seconds to load one block) of the host and the disk tier.
        ``shared_seconds``: seconds to load one block from the shared tier.
        """
        self._top = Tier(capacity)
        self._lower = tuple(Tier(size) for size, _ in lower)
        self._seconds = tuple(seconds for _, seconds in lower)
        self._shared = shared
        self._shared_seconds = shared_seconds

    def __len__(self) -> int:
        return len(self._top.held) + sum(len(tier.held) for tier in self._lower)

    @property
    def on_accelerator(self) -> int:
        """Blocks in the fastest tier."""
        return len(self._top.held)

    def match(self, blocks: Sequence[int], limit: int) -> tuple[int, float]:
        """The longest prefix of ``blocks[:limit]`` that is held: (its blocks, seconds to load those of lower tiers)."""
        if not limit:
            return 0, 0.0
        found = leading(self._top.held, blocks, 0, limit)
        seconds = 0.0
        if found == limit or (self._shared is None and not self._lower):
            return found, seconds
        for tier, each in zip(self._lower, self._seconds, strict=True):
            deeper = leading(tier.held, blocks, found, limit) if tier.held else found
            seconds += (deeper - found) * each
            found = deeper
        if self._shared is not None and found < limit:
            deeper = leading(self._shared.held, blocks, found, limit)
            seconds += (deeper - found) * self._shared_seconds
            found = deeper
        return found, seconds

    def touch(self, blocks: Sequence[int]) -> list[list[int]]:
        """The accelerator holds ``blocks`` now. Returns what the engine does not hold any more, in parts."""
        top = self._top
        top.touch(blocks)
        for tier in self._lower:
            if tier.held:
                tier.forget(blocks)
        if self._shared is not None:
            self._shared.touch(blocks)
            self._shared.shrink(self._shared.capacity)
        return self.shrink(top.capacity) if len(top.held) > top.capacity else []

    def shrink(self, capacity: int) -> list[list[int]]:
        """Leave at most ``capacity`` blocks on the accelerator. Returns what the engine does not hold any more."""
        gone = self._top.shrink(capacity)
        for tier in self._lower:
            for part in gone:
                tier.touch(part)
            gone = tier.shrink(tier.capacity) if gone else gone
        return gone

    def clear(self) -> list[list[int]]:
        """Forget everything but the shared tier. Returns what was held."""
        return self._top.shrink(0) + [part for tier in self._lower for part in tier.shrink(0)]
