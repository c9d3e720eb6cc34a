"""Blocks are held, idle or blank; what is idle can be matched until it is needed for something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.engine.blockcache import BlockCache, Cleared, Event, Removed, Stored, Tier


def fill(cache: BlockCache, hashes: list[int]) -> list[int]:
    matched = cache.match(hashes, len(hashes))
    blocks = cache.take(hashes, matched) + cache.allocate(len(hashes) - matched)
    cache.seal(blocks, hashes)
    return blocks


def tiers(events: list[Event]) -> dict[Tier, set[int]]:
    """What a listener believes after these events."""
    believed: dict[Tier, set[int]] = {Tier.GPU: set(), Tier.HOST: set()}
    for event in events:
        match event:
            case Stored(hashes=hashes, tier=tier):
                assert not believed[tier] & set(hashes), "stored twice"
                believed[tier] |= set(hashes)
            case Removed(hashes=hashes, tier=tier):
                assert believed[tier] >= set(hashes), "removed but never stored"
                believed[tier] -= set(hashes)
            case Cleared():
                believed = {Tier.GPU: set(), Tier.HOST: set()}
    return believed


def test_a_released_prefix_can_be_matched_again() -> None:
    cache = BlockCache(4)
    cache.release(fill(cache, [1, 2]))
    assert cache.match([1, 2, 3], 3) == 2
    assert cache.held_blocks == 0


def test_a_prefix_is_matched_up_to_the_first_gap() -> None:
    cache = BlockCache(4)
    cache.release(fill(cache, [1, 2]))
    assert cache.match([1, 9, 2], 3) == 1


def test_two_holders_of_a_prefix_share_its_blocks() -> None:
    cache = BlockCache(4)
    first, second = fill(cache, [1, 2]), fill(cache, [1, 2])
    assert first == second
    cache.release(first)
    assert cache.held_blocks == 2
    cache.release(second)
    assert cache.held_blocks == 0


def test_the_longest_unused_prefix_goes_first_and_its_tail_before_its_head() -> None:
    cache = BlockCache(4)
    cache.release(fill(cache, [1, 2]))
    cache.release(fill(cache, [3, 4]))
    cache.allocate(1)
    assert cache.match([1, 2], 2) == 1
    assert cache.match([3, 4], 2) == 2


def test_a_use_makes_a_prefix_recent_again() -> None:
    cache = BlockCache(4)
    cache.release(fill(cache, [1, 2]))
    cache.release(fill(cache, [3, 4]))
    cache.release(fill(cache, [1, 2]))
    cache.allocate(2)
    assert cache.match([1, 2], 2) == 2
    assert cache.match([3, 4], 2) == 0


def test_more_blocks_than_are_free_are_refused() -> None:
    cache = BlockCache(2)
    cache.allocate(1)
    with pytest.raises(ValueError, match="2 blocks were asked for, 1 are free"):
        cache.allocate(2)


def test_giving_back_twice_is_refused() -> None:
    cache = BlockCache(2)
    blocks = cache.allocate(1)
    cache.release(blocks)
    with pytest.raises(ValueError, match="nobody holds it"):
        cache.release(blocks)


def test_an_evicted_block_moves_to_the_host_tier_and_the_oldest_leaves_it() -> None:
    cache = BlockCache(2, host_capacity=2, record_events=True)
    for prefix in ([1, 2], [3, 4]):
        cache.release(fill(cache, prefix))
    assert cache.match_host([1, 2], 0, 2) == 2
    cache.release(fill(cache, [5]))
    assert cache.host_blocks == 2
    assert cache.match_host([1, 2], 0, 2) == 1
    assert tiers(cache.drain_events()) == {Tier.GPU: {3, 5}, Tier.HOST: {1, 4}}


def test_content_that_two_computed_at_once_is_named_once() -> None:
    cache = BlockCache(4, record_events=True)
    first, second = cache.allocate(1), cache.allocate(1)
    cache.seal(first, [7])
    cache.seal(second, [7])
    assert cache.drain_events() == [Stored((7,), Tier.GPU)]
    cache.release(second)
    cache.release(first)
    assert cache.free_blocks == 4
    assert cache.cached_blocks == 1


def test_an_event_says_where_the_blocks_belong_and_only_of_new_ones() -> None:
    cache, content = BlockCache(8, record_events=True), object()
    cache.seal(cache.allocate(1), [2], parent=1)
    cache.drain_events()
    cache.seal(cache.allocate(3), [1, 2, 3], parent=0, content=content, first=5)
    assert cache.drain_events() == [
        Stored((1,), Tier.GPU, parent=0, content=content, first=5),
        Stored((3,), Tier.GPU, parent=2, content=content, first=7),
    ]


def test_a_cache_in_use_is_not_cleared() -> None:
    cache = BlockCache(2, record_events=True)
    blocks = fill(cache, [1])
    assert not cache.clear()
    cache.release(blocks)
    assert cache.clear()
    assert cache.match([1], 1) == 0
    assert isinstance(cache.drain_events()[-1], Cleared)


prefixes = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(
    lambda word: [hash(tuple(word[: end + 1])) for end in range(len(word))]
)


@given(st.lists(st.tuples(prefixes, st.booleans()), max_size=60), st.integers(0, 4))
def test_no_block_is_lost_and_listeners_know_what_is_cached(
    uses: list[tuple[list[int], bool]], host_capacity: int
) -> None:
    cache = BlockCache(8, host_capacity=host_capacity, record_events=True)
    held: list[list[int]] = []
    events: list[Event] = []
    for prefix, release_first in uses:
        if release_first and held:
            cache.release(held.pop(0))
        matched = cache.match(prefix, len(prefix))
        needed = len(prefix) - matched + cache.idle_among(prefix, matched)
        if needed <= cache.free_blocks:
            held.append(fill(cache, prefix))
        assert cache.held_blocks == len({block for blocks in held for block in blocks})
        assert cache.held_blocks + cache.free_blocks == cache.capacity
        assert cache.host_blocks <= host_capacity
        events += cache.drain_events()
        believed = tiers(events)
        assert len(believed[Tier.GPU]) == cache.cached_blocks
        assert all(cache.match([content], 1) for content in believed[Tier.GPU])
        assert all(cache.match_host([content], 0, 1) for content in believed[Tier.HOST])
    for blocks in held:
        cache.release(blocks)
    assert cache.free_blocks == cache.capacity
