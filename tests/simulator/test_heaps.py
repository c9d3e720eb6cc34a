"""The least loaded engine, found without looking at all of them."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.simulator.heaps import LazyHeap


@dataclass(eq=False)
class Item:
    number: int


CHANGES = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(-3, 3))), max_size=300)


@settings(deadline=None)
@given(CHANGES)
def test_the_least_is_the_least_after_any_changes(changes: list[tuple[int, int | None]]) -> None:
    items = [Item(number) for number in range(6)]
    heap: LazyHeap[Item] = LazyHeap()
    keys: dict[int, int] = {}
    for number, key in changes:
        if key is None:
            heap.discard(items[number])
            keys.pop(number, None)
        else:
            heap.set(items[number], key)
            keys[number] = key
        least = heap.least()
        expected = min(keys, key=lambda n: (keys[n], n), default=None)
        assert (least.number if least else None) == expected


def test_stale_entries_do_not_pile_up() -> None:
    heap: LazyHeap[Item] = LazyHeap()
    item, other = Item(0), Item(1)
    heap.set(other, -1)
    for key in range(10_000):
        heap.set(item, key)
    assert len(heap._heap) <= 4 * 2 + 64
