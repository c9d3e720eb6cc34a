"""The index against a slow, obvious model: every engine's cache as a set of token prefixes, compared token by token."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paceline.policy.routing.block_hashes import ChainMemory, chain, root
from paceline.policy.routing.engine_cache import EngineCache, Oddity
from paceline.policy.routing.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, Event
from paceline.policy.routing.prefix_index import Held, PrefixIndex, Spreader, Tier, gallop, walk

SIZE = 2
"""Tokens a block."""
EVEN = [1.0] * len(Tier)
spread = Spreader(lambda number: number).spread
TOKENS = st.lists(st.integers(0, 2), min_size=SIZE, max_size=6 * SIZE)
MEDIA = {"GPU": Tier.GPU, "CPU": Tier.HOST, "STORAGE": Tier.DISK}


def names_of(tokens: Sequence[int], *, salt: str | None = None, adapter: str | None = None) -> list[int]:
    whole = tokens[: len(tokens) - len(tokens) % SIZE]
    start = root("m", block_size=SIZE, adapter=adapter, salt=salt)
    return chain(start, array("I", whole).tobytes(), SIZE * 4)


class Rig:
    """An index with caches, and what the caches were told."""

    def __init__(self, *, max_entries: int = 1_000_000, caches: int = 1) -> None:
        self.index = PrefixIndex(max_entries=max_entries)
        self.caches: dict[int, EngineCache] = {}
        for _ in range(caches):
            self.join()

    def join(self) -> int:
        def make(bit: int) -> EngineCache:
            self.made = EngineCache(self.index, bit, model="m", sent_capacity=1000)
            return self.made

        number = self.index.join(make)
        self.caches[number] = self.made
        return number

    def apply(self, number: int, *events: Event) -> None:
        for _ in self.caches[number].apply(events):
            pass

    def blocks(self, tokens: Sequence[int], **salts: str) -> dict[int, int]:
        """Blocks of a prompt that each cache holds."""
        found = spread(self.index.match(names_of(tokens, **salts)), EVEN, 1)
        return {number: held.tokens for number, held in found.items()}


def stored(
    tokens: Sequence[int], first: int = 0, *, engine: str = "", medium: str = "GPU", **more: object
) -> BlockStored:
    """The event for all blocks of a prompt from ``first`` on, with an engine's own names: digests of the prefix."""
    ends = range((first + 1) * SIZE, len(tokens) + 1, SIZE)
    return BlockStored(
        block_hashes=[own_name(tokens[:end], engine) for end in ends],
        parent_block_hash=own_name(tokens[: first * SIZE], engine) if first else None,
        token_ids=list(tokens[first * SIZE : ends[-1]]) if ends else [],
        block_size=SIZE,
        medium=medium,
        **more,  # type: ignore[arg-type]
    )


def own_name(prefix: Sequence[int], engine: str) -> bytes:
    return hashlib.sha256(engine.encode() + b"/" + bytes(prefix)).digest()


class AgainstTheObvious(RuleBasedStateMachine):
    """Three engines that store, move, remove, clear and restart; the model keeps prefixes as tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.caches.clear()
        self.index = self.rig.index = PrefixIndex(max_entries=1_000_000)
        self.held: dict[int, dict[Tier, set[tuple[int, ...]]]] = {}
        for _ in range(3):
            self.start()

    def start(self) -> None:
        self.held[self.rig.join()] = {tier: set() for tier in Tier}

    def known(self, number: int) -> set[tuple[int, ...]]:
        return set().union(*self.held[number].values())

    @rule(which=st.integers(0, 2), tokens=TOKENS, medium=st.sampled_from(sorted(MEDIA)))
    def an_engine_stores_what_follows_what_it_knows(self, which: int, tokens: list[int], medium: str) -> None:
        number = sorted(self.held)[which]
        known, first = self.known(number), 0
        while tuple(tokens[: (first + 1) * SIZE]) in known and (first + 2) * SIZE <= len(tokens):
            first += 1
        event = stored(tokens, first, engine=str(number), medium=medium)
        self.rig.apply(number, event)
        for place in range(len(event.block_hashes)):
            self.held[number][MEDIA[medium]].add(tuple(tokens[: (first + place + 1) * SIZE]))

    @precondition(lambda self: any(map(self.known, self.held)))
    @rule(data=st.data(), medium=st.sampled_from(sorted(MEDIA)))
    def an_engine_removes_a_block_from_a_tier(self, data: st.DataObject, medium: str) -> None:
        number = data.draw(st.sampled_from([number for number in self.held if self.known(number)]))
        prefix = data.draw(st.sampled_from(sorted(self.known(number))))
        self.rig.apply(number, BlockRemoved([own_name(prefix, str(number))], medium))
        self.held[number][MEDIA[medium]].discard(prefix)

    @precondition(lambda self: any(map(self.known, self.held)))
    @rule(data=st.data())
    def an_engine_moves_a_block_to_host_memory(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([number for number in self.held if self.known(number)]))
        prefix = data.draw(st.sampled_from(sorted(self.known(number))))
        name = own_name(prefix, str(number))
        self.rig.apply(number, BlockRemoved([name], "GPU"), BlockStored([name], None, [], SIZE, medium="CPU"))
        self.held[number][Tier.GPU].discard(prefix)
        self.held[number][Tier.HOST].add(prefix)

    @rule(which=st.integers(0, 2))
    def an_engine_clears_its_cache(self, which: int) -> None:
        number = sorted(self.held)[which]
        self.rig.apply(number, AllBlocksCleared())
        self.held[number] = {tier: set() for tier in Tier}

    @rule(which=st.integers(0, 2), swept=st.integers(0, 5))
    def an_engine_restarts(self, which: int, swept: int) -> None:
        number = sorted(self.held)[which]
        self.index.leave(number)
        del self.held[number], self.rig.caches[number]
        self.index.sweep(swept)
        self.start()

    @rule(tokens=TOKENS)
    def every_prompt_matches_what_the_model_says(self, tokens: list[int]) -> None:
        found = self.index.match(names_of(tokens))
        for level, (tier, _) in enumerate(found):
            told = {number: held.tokens for number, held in spread(found[: level + 1], EVEN, 1).items()}
            expected = {}
            for number, tiers in self.held.items():
                reachable = set().union(*(tiers[one] for one in Tier if one <= tier))
                depth = 0
                while (depth + 1) * SIZE <= len(tokens) and tuple(tokens[: (depth + 1) * SIZE]) in reachable:
                    depth += 1
                if depth:
                    expected[number] = depth
            assert told == expected

    @invariant()
    def sizes_are_those_of_the_caches(self) -> None:
        living = sum(map(len, self.index.holders.values()))
        assert living == sum(len(self.known(number)) for number in self.held)
        assert self.index.entries >= living
        while self.index.sweep(1000):
            pass
        assert self.index.entries == living


TestAgainstTheObvious = AgainstTheObvious.TestCase


@given(st.lists(st.integers(0, 2**20 - 1), max_size=60), st.integers(1, 300))
def test_galloping_finds_the_same_steps_as_walking(masks: list[int], stretch: int) -> None:
    shrinking, mask = [], -1
    for one in masks:
        mask &= one | 1 << 21
        shrinking += [mask & (2**21 - 1)] * stretch
    shrinking.append(0)
    assert gallop(shrinking.__getitem__, len(shrinking)) == walk(shrinking.__getitem__, len(shrinking))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=5000), st.integers(1, 3))
def test_remembered_chains_are_the_computed_ones(tokens: list[int], strides: int) -> None:
    memory = ChainMemory(strides)
    content = array("I", tokens).tobytes()
    expected = chain(7, content[: len(content) // 64 * 64], 64)
    for _ in range(3):
        assert memory.names(7, content, 64) == expected
        assert len(memory) <= strides


def test_tenants_adapters_and_models_never_share_a_block() -> None:
    roots = {
        root(model, block_size=size, adapter=adapter, salt=salt)
        for model in ("m", "n") for size in (16, 32) for adapter in (None, "a") for salt in (None, "a", "b")
    }  # fmt: skip
    assert len(roots) == 24


def test_a_salted_prompt_matches_only_its_tenant() -> None:
    rig = Rig()
    rig.apply(0, stored([1, 2, 3, 4], extra_keys=[["tenant"], None]))
    assert rig.blocks([1, 2, 3, 4]) == {}
    assert rig.blocks([1, 2, 3, 4], salt="other") == {}
    assert rig.blocks([1, 2, 3, 4], salt="tenant") == {0: 2}


def test_an_adapter_s_blocks_match_only_its_requests_with_salt_or_without() -> None:
    rig = Rig(caches=2)
    rig.apply(0, stored([1, 2, 3, 4], lora_name="a", extra_keys=[["a"], ["a"]]))
    rig.apply(1, stored([1, 2, 3, 4], lora_name="a", extra_keys=[["a", "tenant"], ["a"]]))
    assert rig.blocks([1, 2, 3, 4], adapter="a") == {0: 2}
    assert rig.blocks([1, 2, 3, 4], adapter="a", salt="tenant") == {1: 2}
    assert rig.blocks([1, 2, 3, 4], salt="a") == {}


def test_blocks_with_images_are_not_taken_for_text() -> None:
    rig = Rig()
    rig.apply(0, stored([1, 2, 3, 4, 5, 6], extra_keys=[None, [["image", 0]], None]))
    assert rig.blocks([1, 2, 3, 4, 5, 6]) == {0: 1}
    assert rig.caches[0].oddities == {Oddity.CONTENT: 2}


def test_tiers_count_by_their_worth() -> None:
    rig = Rig()
    rig.apply(0, stored([1, 2, 3, 4, 5, 6]))
    rig.apply(0, BlockRemoved([own_name([1, 2, 3, 4, 5, 6], "")], "GPU"), stored([1, 2, 3, 4, 5, 6], 2, medium="CPU"))
    weights = [1.0, 1.0, 0.5, 0.25, 0.25]
    assert spread(rig.index.match(names_of([1, 2, 3, 4, 5, 6])), weights, SIZE) == {0: Held(6, 5)}


def test_a_shared_tier_is_in_reach_of_every_engine() -> None:
    rig = Rig(caches=3)
    rig.apply(1, stored([1, 2, 3, 4], locality="REMOTE", medium="STORAGE"))
    assert rig.blocks([1, 2, 3, 4]) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(
    ("event", "oddity", "count"),
    [
        (stored([1, 2, 3, 4], 1), Oddity.ORPHAN, 1),
        (BlockRemoved([5, 6], "GPU"), Oddity.UNKNOWN, 2),
        (BlockStored([7], None, [], SIZE, medium="CPU"), Oddity.UNKNOWN, 1),
        (BlockStored([1, 2], None, [1, 2, 3], SIZE), Oddity.LENGTHS, 2),
        (BlockStored([1], None, [1], 0), Oddity.LENGTHS, 1),
        (BlockStored([1], None, [-1, 2], SIZE), Oddity.LENGTHS, 1),
        (BlockStored([1], None, [1, 2**40], SIZE), Oddity.LENGTHS, 1),
        (stored([1, 2], medium="TAPE"), Oddity.MEDIUM, 1),
        (stored([1, 2], kv_cache_spec_kind="sliding_window"), Oddity.GROUP, 1),
    ],
)
def test_an_event_that_can_t_be_used_is_counted_and_changes_nothing(event: Event, oddity: Oddity, count: int) -> None:
    rig = Rig()
    rig.apply(0, event)
    assert rig.caches[0].oddities == {oddity: count}
    assert (rig.index.entries, rig.index.blocks) == (0, 0)


def test_an_engine_keeps_the_block_size_that_it_began_with() -> None:
    rig = Rig()
    rig.apply(0, stored([1, 2, 3, 4]))
    rig.apply(0, BlockStored([9], own_name([1, 2, 3, 4], ""), [5], 1))
    assert rig.caches[0].oddities == {Oddity.BLOCK_SIZE: 1}
    assert rig.blocks([1, 2, 3, 4, 5]) == {0: 2}


def test_of_a_hybrid_model_only_one_group_of_layers_counts() -> None:
    rig = Rig()
    rig.apply(0, stored([1, 2, 3, 4], group_idx=0), stored([1, 2, 3, 4], group_idx=1))
    rig.apply(0, BlockRemoved([own_name([1, 2, 3, 4], "")], "GPU", group_idx=1))
    assert rig.blocks([1, 2, 3, 4]) == {0: 2}


def test_a_name_that_changes_its_content_means_the_new_one() -> None:
    rig = Rig()
    rig.apply(0, BlockStored([1], None, [1, 1], SIZE), BlockStored([1], None, [2, 2], SIZE))
    assert rig.blocks([1, 1]) == {}
    assert rig.blocks([2, 2]) == {0: 1}
    assert rig.caches[0].oddities == {Oddity.CONTRADICTION: 1}
    assert rig.index.entries == 1


def test_an_engine_that_lies_hurts_only_itself() -> None:
    rig = Rig(caches=2)
    rig.apply(0, stored([1, 2, 3, 4]))
    rig.apply(1, BlockRemoved([own_name([1, 2], ""), own_name([1, 2, 3, 4], "")], "GPU"), AllBlocksCleared())
    assert rig.blocks([1, 2, 3, 4]) == {0: 2}


def test_a_full_index_takes_from_its_largest_cache_the_tails_first() -> None:
    rig = Rig(max_entries=4000, caches=2)
    flood = [number // 2 for number in range(2 * 4500)]
    rig.apply(0, BlockStored(list(range(4500)), None, flood, SIZE))
    assert rig.index.entries == 4000
    odd = rig.caches[0].oddities
    assert odd[Oddity.NO_ROOM] + odd[Oddity.ORPHAN] == 500, "what has no room leaves orphans behind"
    rig.apply(1, stored([1, 2, 3, 4]))
    assert rig.blocks([1, 2, 3, 4]) == {1: 2}
    assert rig.index.entries <= 4000
    assert rig.blocks(flood)[0] == 4000 - rig.index.evicted, "the heads are still there"


def test_a_large_event_is_taken_in_slices() -> None:
    rig = Rig()
    tokens = [number % 7 for number in range(2 * 5000)]
    slices = list(rig.caches[0].apply([BlockStored(list(range(5000)), None, tokens, SIZE)]))
    assert sum(slices) == 5000
    assert max(slices) <= 512
    assert rig.blocks(tokens) == {0: 5000}


def test_a_cache_that_left_matches_nothing_at_once_and_its_number_comes_back_when_it_is_swept() -> None:
    rig = Rig(caches=2)
    rig.apply(0, stored([1, 2, 3, 4]))
    rig.apply(1, stored([1, 2]))
    rig.index.leave(0)
    assert rig.blocks([1, 2, 3, 4]) == {1: 1}
    assert rig.join() == 2
    assert not rig.index.sweep(100)
    assert rig.index.entries == 1
    assert rig.join() == 0
    assert rig.blocks([1, 2, 3, 4]) == {1: 1}


def test_galloping_over_a_cache_with_a_hole_is_noticed() -> None:
    rig = Rig()
    tokens = [number % 5 for number in range(2 * 300)]
    rig.apply(0, BlockStored(list(range(300)), None, tokens, SIZE), BlockRemoved([150], "GPU"))
    answers = [rig.blocks(tokens) for _ in range(256)]
    assert answers[-1] == {0: 150}
    assert (rig.index.verified, rig.index.disagreements) == (1, 1)


def test_what_was_sent_counts_until_it_expires() -> None:
    rig = Rig()
    sent = rig.caches[0].sent
    names = names_of([1, 2, 3, 4, 5, 6])
    sent.add(names, until=10)
    sent.expire(9.9, 100)
    assert rig.blocks([1, 2, 3, 4, 5, 6]) == {0: 3}
    sent.expire(10, 2)
    assert rig.index.entries == 1, "the tail is forgotten before the head"
    assert rig.blocks([1, 2, 3, 4]) == {0: 1}
    sent.expire(10, 100)
    assert rig.index.entries == 0


def test_what_was_sent_lasts_no_longer_than_the_engine_s_cache_would() -> None:
    rig = Rig()
    sent = rig.caches[0].sent
    sent.capacity = 3
    sent.add(names_of([1, 1, 2, 2]), until=10)
    sent.add(names_of([3, 3, 4, 4]), until=10)
    assert rig.blocks([1, 1, 2, 2]) == {0: 1}
    assert rig.blocks([3, 3, 4, 4]) == {0: 2}
    assert len(sent) == 3


def test_what_was_sent_and_what_an_event_said_are_forgotten_apart() -> None:
    rig = Rig()
    rig.caches[0].sent.add(names_of([1, 2, 3, 4]), until=10)
    rig.apply(0, stored([1, 2, 3, 4]))
    rig.caches[0].sent.expire(10, 100)
    assert rig.blocks([1, 2, 3, 4]) == {0: 2}
    rig.apply(0, AllBlocksCleared())
    assert rig.blocks([1, 2, 3, 4]) == {}
