"""No decode engine gets one stream more than its others can bear, but for a request that has no time to wait."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.routing.cost import RequestView, Settings
from paceline.policy.routing.crowding import crowding
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.placement import choose, has_room, uncrowded
from paceline.policy.scaling.profiles import get_profile

MODEL = get_profile("qwen3-32b-h200-tp2")
LIMIT = crowding(MODEL, 0.025)
SETTINGS = Settings(disaggregated=True, local_prefill_tokens=1_000_000, max_running_per_engine=1000, crowding=LIMIT)
BY_NUMBER = msgspec.structs.replace(SETTINGS, crowding=None)
REQUEST = RequestView(prompt_tokens=2000, output_tokens=200)
FITTING = next(n for n in count() if not LIMIT.allows(n + 1, (n + 1) * REQUEST.context_tokens))
"""Streams like the request that keep to the objective together."""
CLOSE = 1e-9
"""Seconds; sums of floats differ by less."""

views = st.builds(
    EngineView,
    name=st.integers(0, 9).map(str),
    role=st.sampled_from(Role),
    usable=st.booleans(),
    running=st.integers(0, 700),
    context_tokens=st.integers(0, 700_000),
)
fleets = st.lists(views, max_size=8, unique_by=lambda engine: engine.name)
requests = st.builds(RequestView, prompt_tokens=st.integers(0, 100_000), output_tokens=st.integers(1, 4096))


def engine(name: str, streams: int, role: Role = Role.DECODE) -> EngineView:
    """With so many streams like the request."""
    return EngineView(name=name, role=role, running=streams, context_tokens=streams * REQUEST.context_tokens)


def chosen(request: RequestView, *engines: EngineView, settings: Settings = SETTINGS) -> str | None:
    placement = choose(request, engines, settings, MODEL, 0.0)
    return None if placement is None else placement.decode.name


def test_a_request_is_not_placed_where_every_decode_engine_has_as_many_streams_as_it_can_bear() -> None:
    assert chosen(REQUEST, engine("a", FITTING), engine("b", FITTING)) is None
    assert chosen(REQUEST, engine("a", FITTING), engine("b", FITTING - 1)) == "b"
    assert chosen(REQUEST, engine("a", FITTING), settings=BY_NUMBER) == "a"


def test_a_crowded_engine_is_passed_over_though_it_holds_the_prompt() -> None:
    request = msgspec.structs.replace(REQUEST, match={"a": 2000})
    assert chosen(request, engine("a", FITTING), engine("b", FITTING - 1)) == "b"
    assert chosen(request, engine("a", FITTING - 1), engine("b", FITTING - 1)) == "a"


def test_a_longer_request_is_not_placed_where_a_shorter_one_still_is() -> None:
    long = msgspec.structs.replace(REQUEST, prompt_tokens=200_000)
    assert chosen(long, engine("a", FITTING - 1)) is None
    assert chosen(REQUEST, engine("a", FITTING - 1)) == "a"


@given(requests, st.integers(0, 2_000_000))
def test_an_engine_without_streams_gets_one_whatever_it_takes(request: RequestView, prompt_tokens: int) -> None:
    request = msgspec.structs.replace(request, prompt_tokens=prompt_tokens)
    assert chosen(request, engine("full", FITTING + 1), engine("idle", 0)) == "idle"


def test_one_stream_alone_may_be_too_long_for_the_objective() -> None:
    longest = RequestView(prompt_tokens=2_000_000)
    assert not LIMIT.allows(1, longest.context_tokens)
    assert chosen(longest, engine("idle", 0)) == "idle"
    assert chosen(longest, engine("busy", 1)) is None


@pytest.mark.parametrize("role", [Role.BOTH, Role.PREFILL])
def test_what_an_engine_of_another_role_may_have_is_not_a_matter_of_its_streams(role: Role) -> None:
    crowded = [engine("a", 5 * FITTING, role)]
    assert uncrowded(crowded, REQUEST.context_tokens, LIMIT) == crowded
    assert chosen(REQUEST, *crowded) == "a"


@given(requests, fleets)
def test_one_that_may_crowd_is_placed_as_if_there_were_no_limit(request: RequestView, fleet: list[EngineView]) -> None:
    crowds = msgspec.structs.replace(request, crowds=True)
    failed = msgspec.structs.replace(request, avoid=frozenset({"gone"}))
    expected = chosen(request, *fleet, settings=BY_NUMBER)
    assert chosen(crowds, *fleet) == expected
    assert chosen(failed, *fleet) == expected


@given(requests, fleets)
def test_who_is_placed_leaves_the_streams_of_its_engine_within_their_objective(
    request: RequestView, fleet: list[EngineView]
) -> None:
    placement = choose(request, fleet, SETTINGS, MODEL, 0.0)
    if placement is None or placement.decode.role is not Role.DECODE or not placement.decode.running:
        return
    decode = placement.decode
    step = MODEL.step_seconds(decode.running + 1, decode.context_tokens + request.context_tokens)
    assert step <= 0.025 + CLOSE


@given(requests, fleets)
def test_there_is_room_for_whoever_is_placed_and_else_for_no_short_request(
    request: RequestView, fleet: list[EngineView]
) -> None:
    if chosen(request, *fleet) is not None:
        assert has_room(fleet, SETTINGS)
    shortest = RequestView(prompt_tokens=0, output_tokens=1)
    assert (chosen(shortest, *fleet) is not None) == has_room(fleet, SETTINGS)


@given(fleets, st.integers(0, 100_000))
def test_engines_are_told_apart_by_the_limit_itself(fleet: list[EngineView], context_tokens: int) -> None:
    kept = uncrowded(fleet, context_tokens, LIMIT)
    looser, stricter = (
        msgspec.structs.replace(LIMIT, room_seconds=LIMIT.room_seconds + margin) for margin in (CLOSE, -CLOSE)
    )
    for one in fleet:
        if one.role is not Role.DECODE or not one.running:
            assert one in kept
            continue
        with_it = (one.running + 1, one.context_tokens + context_tokens)
        if one in kept:
            assert looser.allows(*with_it)
        else:
            assert not stricter.allows(*with_it)
