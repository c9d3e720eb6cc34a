"""What the router itself sent to an engine: stands in for cache events that are late, or never come.

An engine that reports its cache needs this only until the event of a prefill arrives, so that requests which share a
new prefix and come in one burst meet at one engine. For an engine without events it is all that is known, so it follows
what the engine's own LRU will do: as many blocks as its cache holds, the least recently used forgotten first, and none
longer than a time to live. Used by the router.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from paceline.policy.routing.prefix_index import PrefixIndex, Tier


class SentBlocks:
    """Blocks sent to one cache, by the time at which they are forgotten. Times are seconds on the caller's clock."""

    def __init__(self, index: PrefixIndex, bit: int, *, capacity: int) -> None:
        self.bit = bit
        self.capacity = capacity
        self._index = index
        self._until: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, blocks: Sequence[int], until: float) -> None:
        """The engine is computing ``blocks``, in the order of their prefix. Only the first ``capacity`` count."""
        blocks = blocks[: self.capacity]
        sent, index = self._until, self._index
        new = [block for block in blocks if block not in sent]
        if index.entries + len(new) > index.max_entries:
            return  # rather than crowd out what engines say themselves
        index.entries += len(new)
        # The first block last: of one prefix the tail is forgotten first.
        for block in reversed(blocks):
            sent[block] = until
            sent.move_to_end(block)
        index.hold(Tier.SENT, self.bit, new)
        if len(sent) > self.capacity:
            self._forget([sent.popitem(last=False)[0] for _ in range(len(sent) - self.capacity)])

    def drop(self, blocks: Sequence[int]) -> None:
        """The engine did not compute ``blocks`` after all."""
        sent = self._until
        dropped = [block for block in blocks if sent.pop(block, None) is not None]
        self._forget(dropped)

    def expire(self, now: float, limit: int) -> None:
        """Forget what is over, at most ``limit`` blocks."""
        sent = self._until
        over: list[int] = []
        for block, until in sent.items():
            if until > now or len(over) == limit:
                break
            over.append(block)
        for block in over:
            del sent[block]
        self._forget(over)

    def give_up(self, count: int) -> int:
        """Forget up to ``count`` blocks. Returns how many."""
        blocks = [self._until.popitem()[0] for _ in range(min(count, len(self._until)))]
        self._forget(blocks)
        return len(blocks)

    def _forget(self, blocks: Sequence[int]) -> None:
        self._index.release(Tier.SENT, self.bit, blocks)
        self._index.entries -= len(blocks)
