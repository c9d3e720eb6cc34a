"""The tiers of a prefix cache against a plain model of what LRU means."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.simulator.cache import PrefixCache, Tier, leading


class PlainCache:
    """Blocks with the time of their last use; evicts the oldest, of one prompt the deepest first."""

    def __init__(self, capacities: list[int]) -> None:
        self.capacities = capacities
        self.use: dict[int, tuple[int, int]] = {}
        self.now = 0

    def touch(self, path: list[int]) -> None:
        self.now += 1
        self.use.update({block: (self.now, -depth) for depth, block in enumerate(path)})
        excess = len(self.use) - sum(self.capacities)
        for block in sorted(self.use, key=self.use.__getitem__)[: max(0, excess)]:
            del self.use[block]

    def tiers(self) -> list[set[int]]:
        ranked = sorted(self.use, key=self.use.__getitem__, reverse=True)
        result = []
        for capacity in self.capacities:
            result.append(set(ranked[:capacity]))
            ranked = ranked[capacity:]
        return result


def path_of(choices: list[int]) -> list[int]:
    """Ids of the blocks on the way down a tree with three branches at each node: equal ids are equal prefixes."""
    node, path = 0, []
    for choice in choices:
        node = 4 * node + 1 + choice
        path.append(node)
    return path


PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(path_of), max_size=40)


@settings(deadline=None)
@given(PATHS, st.integers(6, 15))
def test_one_tier_holds_what_lru_holds(paths: list[list[int]], capacity: int) -> None:
    cache, plain = PrefixCache(capacity), PlainCache([capacity])
    for path in paths:
        cache.touch(path)
        plain.touch(path)
        assert set(cache._top.held) == plain.tiers()[0]


@settings(deadline=None)
@given(PATHS, st.integers(6, 12), st.integers(1, 12))
def test_a_lower_tier_holds_what_fell_out_of_the_faster_one(paths: list[list[int]], top: int, host: int) -> None:
    cache, plain = PrefixCache(top, lower=[(host, 0.1)]), PlainCache([top, host])
    for path in paths:
        cache.touch(path)
        plain.touch(path)
        assert [set(cache._top.held), set(cache._lower[0].held)] == plain.tiers()


@settings(deadline=None)
@given(PATHS, st.integers(6, 12), st.integers(1, 12))
def test_the_match_found_by_bisection_is_the_one_found_by_walking(paths: list[list[int]], top: int, host: int) -> None:
    cache = PrefixCache(top, lower=[(host, 0.1)])
    for path in paths:
        on_top = sum(1 for _ in _held_prefix(path, cache._top.held))
        both = set(cache._top.held) | set(cache._lower[0].held)
        anywhere = sum(1 for _ in _held_prefix(path, both))
        blocks, seconds = cache.match(path, len(path))
        assert blocks == anywhere
        assert seconds == pytest.approx(0.1 * (anywhere - on_top))
        cache.touch(path)


@settings(deadline=None)
@given(PATHS, st.integers(6, 15))
def test_what_is_reported_as_gone_is_what_is_not_held_any_more(paths: list[list[int]], capacity: int) -> None:
    cache = PrefixCache(capacity)
    held: set[int] = set()
    for path in paths:
        held |= set(path)
        held -= {block for part in cache.touch(path) for block in part}
        assert held == set(cache._top.held)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5).map(lambda last: [1, 2, last + 3]), max_size=3000))
def test_uses_of_a_hot_prefix_do_not_pile_up(paths: list[list[int]]) -> None:
    tier = Tier(100)
    for path in paths:
        tier.touch(path)
    assert sum(len(blocks) for _, blocks in tier._queue) <= 2 * len(tier.held) + 1024


def test_the_shared_tier_serves_an_engine_that_never_saw_the_prompt() -> None:
    shared = Tier(10)
    one = PrefixCache(10, shared=shared, shared_seconds=0.5)
    other = PrefixCache(10, shared=shared, shared_seconds=0.5)
    one.touch([1, 2, 3])
    assert other.match([1, 2, 3, 4], 4) == (3, 1.5)
    assert one.match([1, 2, 3, 4], 4) == (3, 0.0)


def test_an_engine_that_is_gone_holds_nothing() -> None:
    cache = PrefixCache(2, lower=[(5, 0.1)])
    cache.touch([1, 2, 3, 4])
    assert {block for part in cache.clear() for block in part} == {1, 2, 3, 4}
    assert cache.match([1, 2], 2) == (0, 0.0)


def test_the_limit_keeps_the_last_block_from_matching() -> None:
    assert leading({1: 0, 2: 0, 3: 0}, [1, 2, 3], 0, 2) == 2


def _held_prefix(path: list[int], held: object) -> list[int]:
    found = []
    for block in path:
        if block not in held:  # type: ignore[operator]
            break
        found.append(block)
    return found
