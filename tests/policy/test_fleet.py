"""Several deployments under one quota: it is never exceeded, minima come first, and nothing moves without need."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.fleet import (
    PATIENCE_SECONDS,
    RETURN_SECONDS,
    URGENT_SECONDS,
    Claim,
    FleetState,
    fair_shares,
    split,
)


def claim(name: str, wanted: int, *, held: int = 0, priority: int = 0, least: int = 2, grain: int = 2) -> Claim:
    return Claim(name, priority, least, max(wanted, least), held, grain)


def test_with_enough_for_all_everybody_gets_what_it_wants() -> None:
    assert fair_shares([claim("a", 8), claim("b", 4)], 16) == {"a": 8, "b": 4}


def test_minima_come_before_priorities() -> None:
    assert fair_shares([claim("a", 16, priority=10), claim("b", 8, least=4)], 8) == {"a": 4, "b": 4}


def test_higher_priorities_are_served_before_lower_ones() -> None:
    assert fair_shares([claim("a", 12, priority=1), claim("b", 12)], 16) == {"a": 12, "b": 4}


def test_within_a_priority_shares_go_by_need() -> None:
    assert fair_shares([claim("a", 24), claim("b", 8)], 16) == {"a": 12, "b": 4}


def test_free_gpus_are_given_at_once() -> None:
    found = split([claim("a", 8, held=2), claim("b", 2, held=2)], 12, FleetState(), now=0.0)
    assert found.shares == {"a": 8, "b": 2}
    assert found.transfers == ()


def test_gpus_in_use_move_only_after_they_were_lacked_for_a_while_and_it_says_who_gave_to_whom() -> None:
    claims = [claim("a", 8, held=8), claim("b", 8, held=4)]
    state = split(claims, 12, FleetState(), now=0.0).state
    found = split(claims, 12, state, now=PATIENCE_SECONDS - 1)
    assert found.shares == {"a": 8, "b": 4}
    found = split(claims, 12, found.state, now=PATIENCE_SECONDS)
    assert found.shares == {"a": 6, "b": 4}, "b gets them when a's engines are gone"
    assert str(found.transfers[0]) == (
        "a gives 2 GPUs to b: both have priority 0, b holds 4 of the 8 that it needs, a 8 of 8."
    )
    gone = [claim("a", 8, held=6), claim("b", 8, held=4)]
    assert split(gone, 12, found.state, now=PATIENCE_SECONDS + 30).shares == {"a": 6, "b": 6}


def test_a_higher_priority_waits_less() -> None:
    claims = [claim("a", 8, held=8), claim("b", 8, held=4, priority=5)]
    state = split(claims, 12, FleetState(), now=0.0).state
    found = split(claims, 12, state, now=URGENT_SECONDS)
    assert found.shares == {"a": 4, "b": 4}
    assert "b has priority 5, a 0" in str(found.transfers[0])


def test_a_need_that_comes_and_goes_moves_nothing() -> None:
    state = FleetState()
    for second in range(0, 1200, 15):
        wanted = 8 if second // 60 % 2 else 4
        found = split([claim("a", 8, held=8), claim("b", wanted, held=4)], 12, state, now=float(second))
        assert found.shares == {"a": 8, "b": 4}
        state = found.state


def test_what_is_taken_is_what_was_lacked_all_the_while_not_its_peak() -> None:
    """The first seconds of a load say little of it: engines that drain for a guess would be missed at once."""
    first, state = claim("a", 8, held=8), FleetState()
    for now, wanted in ((0.0, 6), (URGENT_SECONDS / 2, 8), (URGENT_SECONDS, 8)):
        found = split([first, claim("b", wanted, held=4, priority=5)], 12, state, now=now)
        state = found.state
    assert [transfer.gpus for transfer in found.transfers] == [2]
    assert found.shares == {"a": 6, "b": 4}
    # What it lacks besides is taken when it has been lacked for as long again.
    gone = [claim("a", 8, held=6), claim("b", 8, held=4, priority=5)]
    found = split(gone, 12, state, now=URGENT_SECONDS + 1)
    assert (found.shares, found.transfers) == ({"a": 6, "b": 6}, ())
    started = [claim("a", 8, held=6), claim("b", 8, held=6, priority=5)]
    found = split(started, 12, found.state, now=2 * URGENT_SECONDS + 1)
    assert [transfer.gpus for transfer in found.transfers] == [2]


def given_up() -> FleetState:
    """a has given 2 of its 8 GPUs to b at second 15, and they are not taken yet."""
    claims = [claim("a", 8, held=8), claim("b", 6, held=4, priority=5)]
    state = split(claims, 12, FleetState(), now=0.0).state
    found = split(claims, 12, state, now=URGENT_SECONDS)
    assert [transfer.gpus for transfer in found.transfers] == [2]
    return found.state


def test_gpus_do_not_go_back_for_a_need_that_is_less_for_a_moment() -> None:
    state, drained, now = given_up(), claim("a", 8, held=6), URGENT_SECONDS
    for wanted in (4, 6, 4, 4, 6):
        now += 10.0
        found = split([drained, claim("b", wanted, held=4, priority=5)], 12, state, now=now)
        assert (found.shares, found.transfers) == ({"a": 6, "b": wanted}, ())
        state = found.state


def test_gpus_go_back_when_who_gave_them_has_lacked_them_for_a_while() -> None:
    claims, began = [claim("a", 8, held=6), claim("b", 4, held=4, priority=5)], URGENT_SECONDS + 10.0
    state = split(claims, 12, given_up(), now=began).state
    found = split(claims, 12, state, now=began + RETURN_SECONDS - 1)
    assert found.shares == {"a": 6, "b": 4}
    assert split(claims, 12, found.state, now=began + RETURN_SECONDS).shares == {"a": 8, "b": 4}


def test_nobody_waits_so_for_its_minimum() -> None:
    claims = [claim("a", 8, held=6, least=8), claim("b", 4, held=4, priority=5)]
    assert split(claims, 12, given_up(), now=URGENT_SECONDS + 10.0).shares == {"a": 8, "b": 4}


def test_who_gave_long_ago_gets_free_gpus_at_once() -> None:
    claims = [claim("a", 8, held=6), claim("b", 4, held=4, priority=5)]
    assert split(claims, 12, given_up(), now=URGENT_SECONDS + PATIENCE_SECONDS).shares == {"a": 8, "b": 4}


def test_two_deployments_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        split([claim("a", 2), claim("a", 2)], 8, FleetState(), now=0.0)


needs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 12), st.sampled_from([1, 2, 4])),
    min_size=1,
    max_size=5,
)


@given(needs, st.integers(0, 64))
def test_fair_shares_never_exceed_quota_or_need(found: list[tuple[int, int, int, int]], quota: int) -> None:
    claims = [
        Claim(f"d{number}", priority, least * grain, (least + more) * grain, 0, grain)
        for number, (priority, least, more, grain) in enumerate(found)
    ]
    shares = fair_shares(claims, quota)
    assert sum(shares.values()) <= quota
    assert all(shares[one.name] <= one.wanted and shares[one.name] % one.grain == 0 for one in claims)


@given(needs, st.lists(st.lists(st.integers(0, 12), min_size=5, max_size=5), min_size=1, max_size=12))
def test_engines_that_start_as_they_may_and_drain_as_they_must_never_exceed_the_quota(
    found: list[tuple[int, int, int, int]], wants: list[list[int]]
) -> None:
    claims = [
        Claim(f"d{number}", priority, least * grain, least * grain, least * grain, grain)
        for number, (priority, least, _, grain) in enumerate(found)
    ]
    quota = sum(one.least for one in claims) + 8
    state, now = FleetState(), 0.0
    for step in wants:
        claims = [replace(one, wanted=one.least + step[i] * one.grain) for i, one in enumerate(claims)]
        for _ in range(12):
            now += 15.0
            result = split(claims, quota, state, now=now)
            state = result.state
            # A drain takes longer than a step: one engine at a time goes.
            claims = [
                replace(one, held=max(result.shares[one.name], one.held - one.grain))
                if one.held > result.shares[one.name]
                else replace(one, held=min(result.shares[one.name], one.wanted))
                for one in claims
            ]
            assert sum(one.held for one in claims) <= quota
