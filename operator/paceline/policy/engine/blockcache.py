"""The KV blocks of one engine: which are in use, which hold a reusable prefix, which were moved to host memory.

Blocks are named by small integers, as on a real engine; what a block holds is named by a 64-bit hash chained over the
prefix. Hashes come from the caller: the emulator hashes token ids, the simulator takes those of its trace. Only full
blocks have a hash. Used by :mod:`paceline.policy.engine.batching`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Tier(StrEnum):
    """Where a block is kept. The values are the ``medium`` of vLLM's cache events."""

    GPU = "GPU"
    HOST = "CPU"


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks became reusable in a tier."""

    hashes: tuple[int, ...]
    tier: Tier
    parent: int | None = None
    """Hash of the block before the first; None at the start of a prefix and in the host tier."""
    content: object = None
    """Whose blocks they are, as given to :meth:`BlockCache.seal`; None in the host tier."""
    first: int = 0
    """Place of the first block in its prefix."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks are no longer in a tier."""

    hashes: tuple[int, ...]
    tier: Tier


@dataclass(frozen=True, slots=True)
class Cleared:
    """All tiers are empty."""


Event = Stored | Removed | Cleared


class BlockCache:
    """Reference-counted blocks with an LRU of the unused ones; every operation costs O(1) a block.

    A block is *held* (someone counts on it), *idle* (no one does, but its content can still be matched) or *blank*.
    An idle block that is taken for something else goes to the host tier if there is one.
    """

    def __init__(self, capacity: int, *, host_capacity: int = 0, record_events: bool = False) -> None:
        """``capacity`` and ``host_capacity`` in blocks. Events pile up until drained."""
        if capacity < 1 or host_capacity < 0:
            raise ValueError(f"a cache needs at least one block, not {capacity} (and {host_capacity} on the host)")
        self.capacity = capacity
        self.host_capacity = host_capacity
        self._record = record_events
        self._references = [0] * capacity
        self._hash_of: list[int | None] = [None] * capacity
        self._by_hash: dict[int, int] = {}
        self._blank = list(range(capacity - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._host: OrderedDict[int, None] = OrderedDict()
        self._events: list[Event] = []

    @property
    def free_blocks(self) -> int:
        """Blocks that :meth:`allocate` can hand out: blank and idle ones."""
        return len(self._blank) + len(self._idle)

    @property
    def held_blocks(self) -> int:
        """Blocks that someone counts on."""
        return self.capacity - self.free_blocks

    @property
    def cached_blocks(self) -> int:
        """Blocks on the accelerator whose content can be matched."""
        return len(self._by_hash)

    @property
    def host_blocks(self) -> int:
        """Blocks in the host tier."""
        return len(self._host)

    def contents(self, tier: Tier) -> list[int]:
        """Hashes of all blocks in a tier that can be matched."""
        return list(self._by_hash if tier is Tier.GPU else self._host)

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many of the first ``limit`` blocks of a prefix are on the accelerator, without a gap."""
        by_hash = self._by_hash
        for index in range(limit):
            if hashes[index] not in by_hash:
                return index
        return limit

    def match_host(self, hashes: Sequence[int], start: int, limit: int) -> int:
        """How many of the blocks ``start..limit`` are in host memory, without a gap."""
        if not self._host:
            return 0
        for index in range(start, limit):
            if hashes[index] not in self._host:
                return index - start
        return limit - start

    def idle_among(self, hashes: Sequence[int], count: int) -> int:
        """How many of the first ``count`` matched blocks :meth:`take` would make held: free blocks that it uses up."""
        return sum(self._references[self._by_hash[hashes[index]]] == 0 for index in range(count))

    def take(self, hashes: Sequence[int], count: int) -> list[int]:
        """Hold the first ``count`` blocks of a prefix, which :meth:`match` found."""
        taken = []
        for index in range(count):
            block = self._by_hash[hashes[index]]
            if self._references[block] == 0:
                del self._idle[block]
            self._references[block] += 1
            taken.append(block)
        return taken

    def allocate(self, count: int) -> list[int]:
        """Hold ``count`` blocks without content, evicting the longest unused. Raises ValueError if too few are free."""
        if count > self.free_blocks:
            raise ValueError(f"{count} blocks were asked for, {self.free_blocks} are free")
        missing = count - len(self._blank)
        if missing > 0:
            self._evict(missing)
        allocated = [self._blank.pop() for _ in range(count)]
        for block in allocated:
            self._references[block] = 1
        return allocated

    def seal(
        self,
        blocks: Sequence[int],
        hashes: Sequence[int],
        *,
        parent: int | None = None,
        content: object = None,
        first: int = 0,
    ) -> None:
        """Held blocks are full: their content can be matched from now on.

        ``hashes`` are theirs in the order of the prefix. The rest is for the event: the hash before them, whose blocks
        they are and at which place in the prefix they start. A block whose content another one holds stays unnamed.
        """
        new = []
        for index, (block, name) in enumerate(zip(blocks, hashes, strict=True)):
            if name not in self._by_hash and self._hash_of[block] is None:
                self._by_hash[name] = block
                self._hash_of[block] = name
                new.append(index)
        if not new or not self._record:
            return
        if len(new) == len(hashes):
            self._events.append(Stored(tuple(hashes), Tier.GPU, parent, content, first))
            return
        for index in new:
            before = hashes[index - 1] if index else parent
            self._events.append(Stored((hashes[index],), Tier.GPU, before, content, first + index))

    def release(self, blocks: Sequence[int]) -> None:
        """Give held blocks back. Of one call the last are evicted first: a prefix is worth more than its tail."""
        for block in reversed(blocks):
            left = self._references[block] - 1
            if left < 0:
                raise ValueError(f"block {block} was given back but nobody holds it")
            self._references[block] = left
            if left == 0:
                if self._hash_of[block] is None:
                    self._blank.append(block)
                else:
                    self._idle[block] = None

    def clear(self) -> bool:
        """Forget all content in all tiers; False, and nothing done, while any block is held."""
        if self.held_blocks:
            return False
        for block in self._idle:
            self._hash_of[block] = None
        self._blank.extend(self._idle)
        self._idle.clear()
        self._by_hash.clear()
        self._host.clear()
        if self._record:
            self._events.append(Cleared())
        return True

    def drain_events(self) -> list[Event]:
        """What changed since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _evict(self, count: int) -> None:
        evicted: list[int] = []
        for _ in range(count):
            block, _none = self._idle.popitem(last=False)
            content = self._hash_of[block]
            if content is None:
                raise AssertionError(f"idle block {block} has no content")
            del self._by_hash[content]
            self._hash_of[block] = None
            self._blank.append(block)
            evicted.append(content)
        if self._record:
            self._events.append(Removed(tuple(evicted), Tier.GPU))
        if self.host_capacity:
            self._offload(evicted)

    def _offload(self, hashes: Iterable[int]) -> None:
        arrived = []
        for content in hashes:
            if content in self._host:
                self._host.move_to_end(content)
            else:
                self._host[content] = None
                arrived.append(content)
        dropped = []
        while len(self._host) > self.host_capacity:
            dropped.append(self._host.popitem(last=False)[0])
        if not self._record:
            return
        if arrived:
            self._events.append(Stored(tuple(arrived), Tier.HOST))
        if dropped:
            self._events.append(Removed(tuple(dropped), Tier.HOST))
