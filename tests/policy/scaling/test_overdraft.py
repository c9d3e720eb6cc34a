"""What was missed beyond the plan is made good later, and what was not missed may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as with_

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Account, Attainment, PolicyState
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.overdraft import (
    CHANCE_REQUESTS,
    LEAST_PAYBACK_SECONDS,
    LEAST_PLANNED,
    MOST_DEBT_SECONDS,
    MOST_PAID_SECONDS,
    MOST_PLANNED,
    MOST_SECONDS,
    indebted,
    planned_misses,
    planned_share,
    settle,
)
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, intervals, observation, settings

SECONDS = st.floats(-MOST_SECONDS, MOST_SECONDS)
PLANNED = PLANNED_MISSES * (1 - settings().target)
"""Share of the requests that is planned to miss."""
RATE = 3.0
"""Low enough that chance is left all there is for it."""
A_SECOND = PLANNED * RATE
"""Requests that are planned to miss at that rate."""


def traffic(rate: float = RATE) -> Traffic:
    """One window in which every request could be served in time."""
    return measure(observation(rate), PolicyState(), settings(), MODELS, OutputModel.of(()))


def attained(share: float, *, requests: int = 1000) -> Attainment:
    return Attainment(requests=requests, ttft=share, itl=1.0, both=share)


def settled(
    account: Account, measured: Attainment | None, *, passed: float | None = 15.0, seen: Traffic | None = None
) -> Account:
    """The account after ``passed`` seconds with that attainment."""
    seen = traffic() if seen is None else seen
    return settle(account, seen, measured, settings(), since=None if passed is None else seen.end - passed)


def overdrawn(seconds: float) -> Account:
    """By so many seconds of what is planned to miss at the usual rate."""
    return Account(planned=A_SECOND, overdrawn=seconds * A_SECOND, debt=seconds * A_SECOND)


def after(seconds: float, share: float, *, passed: float = 15.0, requests: int = 1000) -> float:
    """The same in seconds, before and after."""
    result = settled(overdrawn(seconds), attained(share, requests=requests), passed=passed)
    return result.overdrawn / result.planned


def test_where_more_comes_than_can_be_replayed_misses_count_at_the_rate_of_the_whole_window() -> None:
    """What was attained is measured for all of it, and the newest part of it may be the peak."""
    jumped = measure(
        observation(1.0, arrivals=intervals([250] * 48 + [2000] * 12)), PolicyState(), settings(), MODELS,
        OutputModel.of(()),
    )  # fmt: skip
    assert jumped.request_rate == pytest.approx(120)
    assert len(jumped.requests) / jumped.seconds > 350
    result = settled(Account(), attained(0.5), seen=jumped)
    assert result.debt + result.planned * 15.0 == pytest.approx(0.5 * 120 * 15.0)


def test_missing_twice_what_is_planned_overdraws_by_the_requests_that_this_was_more() -> None:
    result = settled(Account(), attained(1 - 2 * PLANNED))
    assert result.overdrawn == pytest.approx(15.0 * A_SECOND, rel=0.05)


def test_missing_nothing_pays_in_what_could_have_been_missed() -> None:
    assert after(100.0, 1.0) == pytest.approx(85.0, rel=0.05)
    assert after(0.0, 1.0) == pytest.approx(-15.0)


def test_missing_just_what_is_planned_leaves_it_as_it_is() -> None:
    before = overdrawn(100.0)
    assert settled(before, attained(1 - PLANNED)).overdrawn == pytest.approx(before.overdrawn)


def test_what_was_missed_at_a_low_rate_is_soon_made_good_at_a_high_one() -> None:
    before = overdrawn(100.0)
    result = settled(before, attained(1.0), seen=traffic(10 * RATE))
    at_once = 10 * A_SECOND * planned_share(round(300 * 10 * RATE)) / PLANNED_MISSES
    assert result.overdrawn == pytest.approx(before.overdrawn - 15.0 * at_once, abs=at_once)
    assert planned_misses(result) > planned_misses(before)


@given(SECONDS, st.floats(0, 1), st.floats(0, 600))
def test_what_lies_far_back_is_forgotten_on_either_side(seconds: float, share: float, passed: float) -> None:
    assert -MOST_SECONDS * 1.001 <= after(seconds, share, passed=passed) <= MOST_SECONDS * 1.001


def test_few_requests_and_unknown_attainment_say_nothing() -> None:
    before = with_(overdrawn(100.0), rise=3.0, jump=7.0)
    assert settled(before, attained(0.0, requests=10)) == before
    assert settled(before, None) == before
    assert settled(before, attained(0.0), passed=None) == before


def test_requests_that_nobody_could_serve_in_time_are_no_misses() -> None:
    seen = traffic()
    half = replace(seen, objective=replace(seen.objective, ttft_seconds=1e-3, transfer_seconds=0.0))
    assert half.feasible == 0.0
    assert settled(overdrawn(50.0), attained(0.0), seen=half) == overdrawn(50.0)


def test_a_debt_outlasts_what_the_account_forgets() -> None:
    result = settled(overdrawn(MOST_SECONDS), attained(0.0), passed=60.0)
    assert result.overdrawn == pytest.approx(MOST_SECONDS * result.planned)
    assert result.overdrawn < result.debt <= MOST_DEBT_SECONDS * result.planned


def test_what_quiet_hours_did_not_miss_pays_for_the_next_jump() -> None:
    account = Account()
    for _ in range(5 * 60):
        account = settled(account, attained(1.0), passed=60.0)
    assert account.overdrawn == pytest.approx(-MOST_SECONDS * account.planned)
    assert account.debt == pytest.approx(-MOST_PAID_SECONDS * account.planned)
    jumped = settled(account, attained(0.0), passed=60.0)
    assert jumped.jump > 0
    assert not indebted(jumped)
    assert indebted(settled(Account(), attained(0.0), passed=60.0))


def test_engines_are_held_until_the_next_jump_is_paid_for() -> None:
    account = settled(overdrawn(0.0), attained(1 - 11 * PLANNED), passed=30.0)
    cost = account.jump
    assert cost == pytest.approx(300.0 * account.planned)
    held = 0.0
    while indebted(account):
        account = settled(account, attained(1.0))
        held += 15.0
        assert held < 3600
    # Paid back, and once more as much, less what of the jump is forgotten by then.
    assert 400.0 < held < 600.0
    assert account.debt < -cost / 2


def test_without_jumps_nothing_is_held() -> None:
    account = Account()
    for _ in range(10):
        account = settled(account, attained(1.0))
        assert account.rise == account.jump == 0
    assert not indebted(account)


def test_a_jump_that_no_other_followed_is_forgotten() -> None:
    account = settled(overdrawn(0.0), attained(0.0), passed=30.0)
    for _ in range(4 * 60):
        account = settled(with_(account, rise=0.0), attained(1 - PLANNED), passed=60.0)
    assert account.jump < 0.05 * 30.0 * RATE


@given(SECONDS, SECONDS)
def test_the_further_it_is_overdrawn_the_fewer_misses_are_planned_for(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert LEAST_PLANNED <= planned_misses(overdrawn(more)) <= planned_misses(overdrawn(less)) <= MOST_PLANNED
    assert planned_misses(Account()) == PLANNED_MISSES


def test_what_many_requests_overdraw_is_made_good_sooner() -> None:
    """In proportion to what is left to chance, but never faster than a fleet can follow."""

    def planned(seconds: float, share: float) -> float:
        return planned_misses(Account(planned=1.0, overdrawn=seconds, share=share)) / share

    assert planned(140.0, PLANNED_MISSES) == pytest.approx(0.9)
    assert planned(70.0, (1 + PLANNED_MISSES) / 2) == pytest.approx(0.9)
    assert planned(LEAST_PAYBACK_SECONDS / 2, 1.0) == pytest.approx(0.5)


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_the_more_requests_there_are_the_less_is_left_to_chance(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert PLANNED_MISSES <= planned_share(few) <= planned_share(many) < 1


def test_of_four_times_as_many_requests_chance_takes_half_the_share() -> None:
    assert planned_share(CHANCE_REQUESTS // 2) == planned_share(CHANCE_REQUESTS) == PLANNED_MISSES
    assert 1 - planned_share(4 * CHANCE_REQUESTS) == pytest.approx((1 - PLANNED_MISSES) / 2)


def test_a_large_load_is_planned_to_miss_more_of_what_it_may() -> None:
    small, large = (settled(Account(), attained(1 - PLANNED), seen=traffic(rate)) for rate in (RATE, 30 * RATE))
    assert planned_misses(large) > planned_misses(small)
