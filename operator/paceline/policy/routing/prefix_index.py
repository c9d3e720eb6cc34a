"""Which engines hold which prefix blocks: a dict from block to a bit mask of caches, one dict a tier.

A cache is one engine's, or one data-parallel rank's. Engines evict the tails of prefixes before their heads, so the
set of caches that hold block i of a prompt only shrinks with i, and where it shrinks is found by galloping instead of
block by block. Lost events can break that, so every now and then a match is checked against the plain walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final, Generic, Protocol, TypeVar

import msgspec

K = TypeVar("K")

WALK_BLOCKS: Final = 128
"""Shorter prompts are matched block by block: about as fast, and exact."""
VERIFY_EVERY: Final = 256
"""One galloping match of so many is checked."""
MAX_MASKS: Final = 65_536
"""Different masks that blocks share, so that a prefix held by many engines doesn't cost a large int a block."""
MAX_SPREAD_MASKS: Final = 4096
"""Masks whose caches are remembered; a thousand engines take 8 kB a mask."""
EVICT_BLOCKS: Final = 1024
"""Entries that a full index takes from its largest cache at a time."""

Steps = list[tuple[int, int]]
"""(length, mask): the caches of ``mask`` hold at least ``length`` blocks of the prefix. Longer ones have fewer."""


class Tier(IntEnum):
    """Where a block lies, the fastest first."""

    GPU = 0
    SENT = 1
    """No event said so, but the router sent the prompt there."""
    HOST = 2
    DISK = 3
    SHARED = 4
    """Within every engine's reach."""


class Holder(Protocol):
    """One cache's side of the index: knows which entries are its own."""

    bit: int

    def __len__(self) -> int:
        """Entries."""
        ...

    def give_up(self, count: int) -> int:
        """Release up to ``count`` entries, the newest first: tails of prefixes. Returns how many."""
        ...


class PrefixIndex:
    """Blocks of all engines. Bounded by ``max_entries``, an entry being one block in one cache."""

    def __init__(self, *, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries = 0
        self.refused = 0
        """Blocks that found no room."""
        self.evicted = 0
        """Entries given up for others."""
        self.verified = 0
        self.disagreements = 0
        """Galloping matches that the plain walk did not confirm."""
        self._tables: tuple[dict[int, int], ...] = tuple({} for _ in Tier)
        self._masks: dict[int, int] = {}
        self._holders: dict[int, Holder] = {}
        """Live ones by number."""
        self._dead: list[Holder] = []
        self._free: list[int] = []
        self._live = 0
        self._matches = 0

    @property
    def blocks(self) -> int:
        """Different blocks, counted once a tier."""
        return sum(map(len, self._tables))

    @property
    def holders(self) -> Mapping[int, Holder]:
        """Live caches by number."""
        return self._holders

    def join(self, make: Callable[[int], Holder]) -> int:
        """Add a cache, made by ``make`` from its bit. Returns its number, which is free again some time after
        :meth:`leave`.
        """
        number = self._free.pop() if self._free else len(self._holders) + len(self._dead)
        bit = 1 << number
        self._holders[number] = make(bit)
        self._live |= bit
        return number

    def leave(self, number: int) -> None:
        """A cache matches nothing from now on. Its entries are forgotten by :meth:`sweep`, a few at a time."""
        holder = self._holders.pop(number)
        self._live &= ~holder.bit
        self._dead.append(holder)

    def sweep(self, limit: int) -> bool:
        """Forget up to ``limit`` entries of caches that left. True when more are left to do."""
        while self._dead and limit > 0:
            holder = self._dead[-1]
            limit -= holder.give_up(limit)
            if not len(holder):
                self._dead.pop()
                self._free.append(holder.bit.bit_length() - 1)
        return bool(self._dead)

    def make_room(self, asking: Holder, count: int) -> int:
        """How many of ``count`` more entries ``asking`` may add. When the index is full the largest cache gives up its
        newest entries for the others, so that one engine can't crowd out the rest; the largest itself gets no more.
        """
        if self.max_entries - self.entries < count:
            self.sweep(count)
        while (room := max(0, self.max_entries - self.entries)) < count:
            largest = max(self._holders.values(), key=len, default=asking)
            if largest is asking or len(largest) <= len(asking) + count:
                self.refused += count - room
                return room
            self.evicted += largest.give_up(max(EVICT_BLOCKS, count))
        return count

    def hold(self, tier: Tier, bit: int, blocks: Iterable[int]) -> None:
        """The cache of ``bit`` has ``blocks`` in ``tier``."""
        table, intern = self._tables[tier], self._intern
        get = table.get
        for block in blocks:
            mask = get(block)
            if mask is None:
                table[block] = bit
            elif not mask & bit:
                table[block] = intern(mask | bit)

    def release(self, tier: Tier, bit: int, blocks: Iterable[int]) -> None:
        """The cache of ``bit`` has none of ``blocks`` in ``tier`` any more."""
        table, intern = self._tables[tier], self._intern
        get = table.get
        for block in blocks:
            mask = get(block)
            if mask is None or not mask & bit:
                continue
            if mask == bit:
                del table[block]
            else:
                table[block] = intern(mask ^ bit)

    def told_by(self, bit: int) -> Callable[[int], bool]:
        """Tells of a block whether the cache of ``bit`` has it in any tier by its own word."""
        gets = [self._tables[tier].get for tier in Tier if tier is not Tier.SENT and self._tables[tier]]
        if len(gets) == 1:
            get = gets[0]
            return lambda block: bool(get(block, 0) & bit)
        return lambda block: any(get(block, 0) & bit for get in gets)

    def held_in(self, tier: Tier, bit: int) -> Callable[[int], bool]:
        """Tells of a block whether the cache of ``bit`` has it in ``tier``."""
        table = self._tables[tier]
        return lambda block: bool(table.get(block, 0) & bit)

    def match(self, blocks: Sequence[int]) -> list[tuple[Tier, Steps]]:
        """How far each cache holds the prefix ``blocks``: one entry for each tier in use, the fastest first.

        The steps of a tier count what lies in it or in a faster one.
        """
        found: list[tuple[Tier, Steps]] = []
        if not blocks or not self._live:
            return found
        tables: list[dict[int, int]] = []
        for tier in Tier:
            table = self._tables[tier]
            if not table:
                continue
            tables.append(table)
            at = self._lookup(tables, blocks, shared=tier is Tier.SHARED)
            found.append((tier, self._steps(at, len(blocks))))
        return found

    def _lookup(self, tables: list[dict[int, int]], blocks: Sequence[int], *, shared: bool) -> Callable[[int], int]:
        """Mask of the caches that hold the block at an index in any of ``tables``."""
        live = self._live
        gets = tuple(table.get for table in tables)
        if len(gets) == 1 and not shared:
            get = gets[0]
            return lambda index: get(blocks[index], 0) & live

        def at(index: int) -> int:
            block, mask = blocks[index], 0
            if shared and gets[-1](block):
                return live
            for get in gets:
                mask |= get(block, 0)
            return mask & live

        return at

    def _steps(self, at: Callable[[int], int], count: int) -> Steps:
        if count <= WALK_BLOCKS:
            return walk(at, count)
        steps = gallop(at, count)
        self._matches += 1
        if self._matches % VERIFY_EVERY == 0:
            self.verified += 1
            exact = walk(at, count)
            if exact != steps:
                self.disagreements += 1
                return exact
        return steps

    def _intern(self, mask: int) -> int:
        if len(self._masks) >= MAX_MASKS:
            self._masks.clear()
        return self._masks.setdefault(mask, mask)


def walk(at: Callable[[int], int], count: int) -> Steps:
    """Steps of a prefix of ``count`` blocks, block by block."""
    steps: Steps = []
    mask = at(0)
    for index in range(1, count):
        if not mask:
            return steps
        here = at(index) & mask
        if here != mask:
            steps.append((index, mask))
            mask = here
    if mask:
        steps.append((count, mask))
    return steps


def gallop(at: Callable[[int], int], count: int) -> Steps:
    """The same for masks that only shrink: O(log) looks for each place where they do."""
    steps: Steps = []
    mask, good = at(0), 0
    while mask:
        bad, stride = count, 1
        if at(count - 1) & mask == mask:
            good = count - 1
        while good + 1 < bad:  # the mask still stands at good, and is smaller at bad
            probe = good + stride
            if stride and probe >= bad:
                probe, stride = (good + bad) // 2, 0
            elif not stride:
                probe = (good + bad) // 2
            if at(probe) & mask == mask:
                good, stride = probe, stride * 2
            else:
                bad, stride = probe, 0
        steps.append((good + 1, mask))
        if bad == count:
            break
        mask, good = at(bad) & mask, bad
    return steps


class Held(msgspec.Struct, frozen=True, gc=False):
    """What one cache holds of a prompt."""

    tokens: int
    worth: int
    """The same tokens weighted by the tiers they lie in."""


_NOTHING: Final = Held(0, 0)


class Spreader(Generic[K]):
    """Turns steps into what each cache holds, by what the caller calls it. Remembers whom masks stand for: they come
    again and again, and a system prompt's has a bit for every engine.
    """

    def __init__(self, called: Callable[[int], K]) -> None:
        self._called = called
        self._caches: dict[int, tuple[K, ...]] = {}

    def forget(self) -> None:
        """Numbers stand for other caches from now on."""
        self._caches.clear()

    def caches(self, mask: int) -> tuple[K, ...]:
        """Whom the bits that are set stand for."""
        known = self._caches.get(mask)
        if known is None:
            if len(self._caches) >= MAX_SPREAD_MASKS:
                self._caches.clear()
            text = bin(mask)[:1:-1]
            known = tuple(self._called(place) for place, bit in enumerate(text) if bit == "1")
            self._caches[mask] = known
        return known

    def spread(self, found: Sequence[tuple[Tier, Steps]], weights: Sequence[float], block_tokens: int) -> dict[K, Held]:
        """Caches that hold anything of the prefix. ``weights``: worth by tier, of blocks of ``block_tokens`` tokens."""
        result: dict[K, Held] = {}
        before: Steps = []
        for tier, steps in found:
            if steps == before:
                continue  # nothing lies in this tier that no faster one has
            weight, first = weights[tier] * block_tokens, not before
            before = steps
            depths: dict[K, Held] = {}
            for length, mask in steps:
                depths.update(dict.fromkeys(self.caches(mask), Held(length * block_tokens, int(weight * length))))
            if first:
                result = depths
                continue
            for cache, deeper in depths.items():
                held = result.get(cache, _NOTHING)
                if deeper.tokens > held.tokens:
                    more = int(weights[tier] * (deeper.tokens - held.tokens))
                    result[cache] = Held(deeper.tokens, held.worth + more)
        return result
