"""Who gives way: as few as help, those of the lowest priority first, and of them those that are cheapest to redo."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.routing.cost import Settings
from paceline.policy.routing.crowding import Crowding
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.yielding import Guest, give_way

NAMES = ("a", "b", "c")
LIMIT = 4
SETTINGS = Settings(disaggregated=False, local_prefill_tokens=0, max_running_per_engine=LIMIT)
APART = Settings(disaggregated=True, local_prefill_tokens=0, max_running_per_engine=LIMIT)

GUESTS = st.lists(
    st.builds(Guest, engine=st.sampled_from(NAMES), priority=st.integers(-3, -1), computed_tokens=st.integers(0, 9)),
    max_size=12,
)
ENGINES = st.tuples(
    *(
        st.builds(
            EngineView, name=st.just(name), role=st.sampled_from(Role), usable=st.booleans(),
            running=st.integers(0, LIMIT + 2),
        )
        for name in NAMES
    )
)  # fmt: skip
ENDING = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3))


def guest(engine: str, tokens: int, priority: int = -1) -> Guest:
    return Guest(engine=engine, priority=priority, computed_tokens=tokens)


def full(name: str, role: Role = Role.BOTH, *, running: int = LIMIT, usable: bool = True) -> EngineView:
    return EngineView(name=name, role=role, running=running, usable=usable)


def test_the_youngest_of_the_lowest_priority_gives_way() -> None:
    guests = [guest("a", 5), guest("a", 900, -2), guest("b", 700, -2), guest("b", 1)]
    assert give_way(guests, [full("a"), full("b")], SETTINGS, wanted=3, ending={}) == [2, 1, 3]


def test_nobody_gives_way_while_room_is_there_or_comes() -> None:
    guests = [guest("a", 5), guest("b", 5)]
    assert give_way(guests, [full("a"), full("b", running=LIMIT - 1)], SETTINGS, wanted=1, ending={}) == []
    assert give_way(guests, [full("a"), full("b")], SETTINGS, wanted=1, ending={"b": 1}) == []


def test_nobody_gives_way_where_that_makes_no_room() -> None:
    guests = [guest("over", 5), guest("drains", 5), guest("prompts", 5), guest("gone", 5)]
    engines = [full("over", running=LIMIT + 1), full("drains", usable=False), full("prompts", Role.PREFILL)]
    assert give_way(guests, engines, APART, wanted=4, ending={}) == []


def test_a_stream_gives_way_where_others_are_as_many_as_the_steps_of_the_engine_allow() -> None:
    guests = [guest("a", 5), guest("a", 1)]
    three = Crowding(room_seconds=0.03, stream_seconds=0.01, token_seconds=0.0)
    crowded = msgspec.structs.replace(APART, max_running_per_engine=100, crowding=three)
    by_number = msgspec.structs.replace(crowded, crowding=None)
    assert give_way(guests, [full("a", Role.DECODE, running=3)], crowded, wanted=1, ending={}) == [1]
    assert give_way(guests, [full("a", Role.DECODE, running=3)], crowded, wanted=1, ending={"a": 1}) == []
    assert give_way(guests, [full("a", Role.DECODE, running=2)], crowded, wanted=1, ending={}) == []
    assert give_way(guests, [full("a", Role.BOTH, running=3)], crowded, wanted=1, ending={}) == []
    assert give_way(guests, [full("a", Role.DECODE, running=3)], by_number, wanted=1, ending={}) == []


@given(GUESTS, ENGINES, st.integers(0, 8), ENDING, st.sampled_from((SETTINGS, APART)))
def test_no_more_give_way_than_are_needed_and_each_makes_room(
    guests: list[Guest], engines: tuple[EngineView, ...], wanted: int, ending: dict[str, int], settings: Settings
) -> None:
    def rooms(left: Counter[str]) -> int:
        return sum(
            max(0, LIMIT - engine.running + left[engine.name])
            for engine in engines
            if engine.usable and (engine.role is not Role.PREFILL or not settings.disaggregated)
        )

    chosen = give_way(guests, engines, settings, wanted=wanted, ending=ending)
    before = Counter(ending)
    after = before + Counter(guests[place].engine for place in chosen)
    assert len(set(chosen)) == len(chosen)
    assert rooms(after) == rooms(before) + len(chosen)
    assert rooms(after) <= max(wanted, rooms(before))


@given(GUESTS, ENGINES, st.integers(0, 8))
def test_who_stays_is_worth_more_than_who_gives_way_on_the_same_engine(
    guests: list[Guest], engines: tuple[EngineView, ...], wanted: int
) -> None:
    chosen = set(give_way(guests, engines, SETTINGS, wanted=wanted, ending={}))
    for gone in chosen:
        for stays in set(range(len(guests))) - chosen:
            if guests[stays].engine == guests[gone].engine:
                assert (guests[stays].priority, guests[stays].computed_tokens) >= (
                    guests[gone].priority,
                    guests[gone].computed_tokens,
                )
