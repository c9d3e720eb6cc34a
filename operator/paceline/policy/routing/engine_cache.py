"""One engine's cache as its events tell it: translates the engine's names of blocks into the index's.

Nothing an engine says is trusted further than its own entries: a wrong event costs matches on that engine, is counted
by what was wrong with it, and touches no other.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

from paceline.policy.routing.block_hashes import NAME_MASK, TOKEN_BYTES, chain, root
from paceline.policy.routing.kv_events import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored, Event
from paceline.policy.routing.prefix_index import PrefixIndex, Tier
from paceline.policy.routing.sent import SentBlocks

SLICE_BLOCKS: Final = 512
"""Blocks after which :meth:`EngineCache.apply` lets others have a turn."""
MAX_BLOCK_SIZE: Final = 65_536
FULL_ATTENTION: Final = frozenset({"full_attention", "mla_attention"})
"""Kinds of layers whose blocks stand for a whole prefix; vLLM's names."""

_TIERS: Final = {None: Tier.GPU, "gpu": Tier.GPU, "cpu": Tier.HOST, "storage": Tier.DISK}
_REMOTE: Final = "REMOTE"


class Oddity(StrEnum):
    """Why blocks of an event were passed over."""

    ORPHAN = "orphan"
    """The block before them is not known."""
    UNKNOWN = "unknown"
    """Removed, or named without token ids, but never described."""
    LENGTHS = "lengths"
    """Token ids, blocks and block size don't fit together, or are no token ids."""
    BLOCK_SIZE = "block-size"
    """Another block size than this engine's."""
    MEDIUM = "medium"
    """A medium that is not known."""
    GROUP = "group"
    """Of layers that don't stand for the whole prefix."""
    CONTENT = "content"
    """They depend on more than tokens: images, embeddings."""
    CONTRADICTION = "contradiction"
    """The engine gave one name to two contents; the later one counts."""
    NO_ROOM = "no-room"
    """The index is full."""


class EngineCache:
    """Entries of one cache. Sizes in blocks."""

    def __init__(self, index: PrefixIndex, bit: int, *, model: str, sent_capacity: int) -> None:
        self.bit = bit
        self.sent = SentBlocks(index, bit, capacity=sent_capacity)
        """Blocks that no event confirmed yet."""
        self.block_size = 0
        """Tokens a block; 0 until the engine has said it."""
        self.oddities: Counter[Oddity] = Counter()
        self._index = index
        self._model = model
        self._names: dict[int, int] = {}
        """The engine's name of each block it holds to ours."""
        self._unheld: list[int] = []
        """Engine's names that the current batch removed: a later event in it may put them into another tier."""
        self._group: int | None = None

    def __len__(self) -> int:
        return len(self._names) + len(self.sent)

    @property
    def told(self) -> int:
        """Blocks that events speak of."""
        return len(self._names)

    def names(self, tier: Tier) -> list[int]:
        """The engine's own names, 60 bits of each, of the blocks that its events put into ``tier``."""
        held = self._index.held_in(tier, self.bit)
        return [name for name, block in self._names.items() if held(block)]

    def apply(self, events: Sequence[Event]) -> Iterator[int]:
        """Take over one batch. A generator: yields the number of blocks since the last time, every
        ``SLICE_BLOCKS`` or so and at the end.
        """
        done = 0
        for event, hashes in _merged(events):
            if isinstance(event, AllBlocksCleared):
                yield from self._clear()
                continue
            tier = self._tier(event, len(hashes))
            if tier is None:
                continue
            for start in range(0, len(hashes), SLICE_BLOCKS):
                stop = min(start + SLICE_BLOCKS, len(hashes))
                if isinstance(event, BlockRemoved):
                    self._remove(hashes[start:stop], tier)
                elif event.token_ids:
                    self._store(event, tier, start, stop)
                else:
                    self._move(hashes[start:stop], tier)
                done += stop - start
                if done >= SLICE_BLOCKS:
                    yield done
                    done = 0
        self._forget_unheld()
        yield done

    def give_up(self, count: int) -> int:
        """See :class:`paceline.policy.routing.prefix_index.Holder`."""
        given = self.sent.give_up(count)
        names = self._names
        blocks = [names.popitem()[1] for _ in range(min(count - given, len(names)))]
        for tier in Tier:
            if tier is not Tier.SENT:
                self._index.release(tier, self.bit, blocks)
        self._index.entries -= len(blocks)
        return given + len(blocks)

    def _clear(self) -> Iterator[int]:
        self._unheld.clear()
        while len(self):
            yield self.give_up(SLICE_BLOCKS)

    def _tier(self, event: BlockStored | BlockRemoved, count: int) -> Tier | None:
        """Where the event happened to ``count`` blocks; None when it is none of our business."""
        if isinstance(event, BlockStored) and event.kv_cache_spec_kind not in (None, *FULL_ATTENTION):
            self.oddities[Oddity.GROUP] += count
            return None
        if event.group_idx is not None:
            # Hybrid models name a block once for each group of layers; the first group's word is enough.
            if self._group is None and isinstance(event, BlockStored):
                self._group = event.group_idx
            if event.group_idx != self._group:
                self.oddities[Oddity.GROUP] += count
                return None
        if event.locality == _REMOTE:
            return Tier.SHARED
        tier = _TIERS.get(event.medium.lower() if event.medium else None)
        if tier is None:
            self.oddities[Oddity.MEDIUM] += count
        return tier

    def _store(self, event: BlockStored, tier: Tier, start: int, stop: int) -> None:
        count = stop - start
        oddity = self._check(event)
        parent = None if oddity else self._before(event, start)
        if parent is None:
            self.oddities[oddity or Oddity.ORPHAN] += count
            return
        size = event.block_size
        if event.extra_keys is not None:
            usable = _text_blocks(event, start, stop)
            if usable < count:
                self.oddities[Oddity.CONTENT] += count - usable
                count, stop = usable, start + usable
        try:
            content = array("I", event.token_ids[start * size : stop * size]).tobytes()
        except (OverflowError, TypeError):
            self.oddities[Oddity.LENGTHS] += count
            return
        index, names = self._index, self._names
        keys = _keys(event.block_hashes[start:stop])
        if index.entries + count > index.max_entries:
            room = index.make_room(self, count)
            self.oddities[Oddity.NO_ROOM] += count - room
            keys, content = keys[:room], content[: room * size * TOKEN_BYTES]
        blocks = chain(parent, content, size * TOKEN_BYTES)
        before = len(names)
        if not names.keys().isdisjoint(keys):
            self._forget_contradicted(keys, blocks)
            before = len(names)
        names.update(zip(keys, blocks, strict=True))
        index.entries += len(names) - before
        index.hold(tier, self.bit, blocks)

    def _check(self, event: BlockStored) -> Oddity | None:
        size = event.block_size
        if not 0 < size <= MAX_BLOCK_SIZE or len(event.token_ids) != size * len(event.block_hashes):
            return Oddity.LENGTHS
        if not self.block_size:
            self.block_size = size
        return None if size == self.block_size else Oddity.BLOCK_SIZE

    def _before(self, event: BlockStored, start: int) -> int | None:
        """Our name of the block before the one at ``start``; None if it is not known."""
        if start:
            return self._names.get(_key(event.block_hashes[start - 1]))
        if event.parent_block_hash is not None:
            return self._names.get(_key(event.parent_block_hash))
        return root(self._model, block_size=event.block_size, adapter=event.lora_name, salt=_salt(event))

    def _forget_contradicted(self, keys: Sequence[int], blocks: Sequence[int]) -> None:
        """The engine describes blocks again. That is fine as long as it says the same."""
        for key, block in zip(keys, blocks, strict=True):
            known = self._names.get(key, block)
            if known != block:
                self.oddities[Oddity.CONTRADICTION] += 1
                del self._names[key]
                self._index.entries -= 1
                for tier in Tier:
                    if tier is not Tier.SENT:
                        self._index.release(tier, self.bit, (known,))

    def _move(self, hashes: Sequence[BlockHash], tier: Tier) -> None:
        """Blocks that were described before are in ``tier`` too."""
        known = [block for key in _keys(hashes) if (block := self._names.get(key)) is not None]
        self.oddities[Oddity.UNKNOWN] += len(hashes) - len(known)
        self._index.hold(tier, self.bit, known)

    def _remove(self, hashes: Sequence[BlockHash], tier: Tier) -> None:
        names = self._names
        keys = [key for key in _keys(hashes) if key in names]
        if len(keys) < len(hashes):
            self.oddities[Oddity.UNKNOWN] += len(hashes) - len(keys)
        self._index.release(tier, self.bit, [names[key] for key in keys])
        self._unheld += keys

    def _forget_unheld(self) -> None:
        if not self._unheld:
            return
        names, before = self._names, len(self._names)
        holds = self._index.told_by(self.bit)
        for key in self._unheld:
            block = names.get(key)
            if block is not None and not holds(block):
                del names[key]
        self._index.entries -= before - len(names)
        self._unheld.clear()


def _merged(events: Sequence[Event]) -> Iterator[tuple[Event, Sequence[BlockHash]]]:
    """Events with the names of their blocks; removals that follow one another in one medium are one. vLLM removes
    block by block.
    """
    first: BlockRemoved | None = None
    hashes: list[BlockHash] = []
    for event in events:
        if type(event) is BlockRemoved:
            if (
                first is not None
                and event.medium == first.medium
                and event.group_idx == first.group_idx
                and event.locality == first.locality
            ):
                hashes += event.block_hashes
                continue
            if first is not None:
                yield first, hashes
            first, hashes = event, list(event.block_hashes)
            continue
        if first is not None:
            yield first, hashes
            first = None
        yield event, event.block_hashes if isinstance(event, BlockStored) else ()
    if first is not None:
        yield first, hashes


def _keys(names: Sequence[BlockHash]) -> list[int]:
    """Engine's names of blocks in 60 bits."""
    return [name & NAME_MASK if type(name) is int else _key(name) for name in names]


def _key(name: BlockHash) -> int:
    """An engine's name of a block in 60 bits."""
    return (name if isinstance(name, int) else int.from_bytes(name[-8:], "big")) & NAME_MASK


def _salt(event: BlockStored) -> str | None:
    """The cache salt: the only text among the keys of a first block besides the adapter's name."""
    keys = event.extra_keys[0] if event.extra_keys else None
    texts = [key for key in keys or () if isinstance(key, str)]
    if event.lora_name and texts and texts[0] == event.lora_name:
        del texts[0]
    return texts[0] if texts else None


def _text_blocks(event: BlockStored, start: int, stop: int) -> int:
    """How many of the blocks ``start..stop`` depend on nothing but tokens, adapter and salt."""
    keys = event.extra_keys or []
    for place in range(start, min(stop, len(keys))):
        expected = (event.lora_name is not None) + (place == 0 and event.parent_block_hash is None)
        of_block = keys[place] or ()
        if len(of_block) > expected or not all(isinstance(key, str) for key in of_block):
            return place - start
    return stop - start
