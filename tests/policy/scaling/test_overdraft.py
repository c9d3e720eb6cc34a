"""What was missed beyond the plan is made good later, and what was not missed may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Attainment, PolicyState
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.overdraft import (
    LEAST_PLANNED,
    MOST_DEBT_SECONDS,
    MOST_PLANNED,
    MOST_SECONDS,
    planned_misses,
    settle,
)
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, observation, settings

BALANCES = st.floats(-MOST_SECONDS, MOST_SECONDS)
PLANNED = PLANNED_MISSES * (1 - settings().target)


def traffic() -> Traffic:
    """One window in which every request could be served in time."""
    return measure(observation(5.0), PolicyState(), settings(), MODELS, OutputModel.of(()))


def attained(share: float, *, requests: int = 1000) -> Attainment:
    return Attainment(requests=requests, ttft=share, itl=1.0, both=share)


def after(seconds: float, share: float, *, passed: float = 15.0, requests: int = 1000) -> float:
    return settled(seconds, attained(share, requests=requests), passed=passed)[0]


def settled(
    seconds: float,
    measured: Attainment | None,
    *,
    debt: float = 0.0,
    passed: float | None = 15.0,
    seen: Traffic | None = None,
) -> tuple[float, float]:
    seen = traffic() if seen is None else seen
    since = None if passed is None else seen.end - passed
    return settle(PolicyState(overdrawn=seconds, debt=debt, decided_at=since), seen, measured, settings())


def test_missing_twice_what_is_planned_overdraws_by_the_time_it_lasted() -> None:
    assert after(0.0, 1 - 2 * PLANNED) == pytest.approx(15.0)


def test_missing_nothing_pays_in_as_much_as_the_time_it_lasted() -> None:
    assert after(100.0, 1.0) == pytest.approx(85.0)
    assert after(0.0, 1.0) == pytest.approx(-15.0)


def test_missing_just_what_is_planned_leaves_it_as_it_is() -> None:
    assert after(100.0, 1 - PLANNED) == pytest.approx(100.0)


@given(BALANCES, st.floats(0, 1), st.floats(0, 600))
def test_what_lies_far_back_is_forgotten_on_either_side(seconds: float, share: float, passed: float) -> None:
    assert -MOST_SECONDS <= after(seconds, share, passed=passed) <= MOST_SECONDS


def test_few_requests_and_unknown_attainment_say_nothing() -> None:
    assert after(100.0, 0.0, requests=10) == 100.0
    assert settled(100.0, None, debt=70.0) == (100.0, 70.0)
    assert settled(100.0, attained(0.0), debt=70.0, passed=None) == (100.0, 70.0)


def test_requests_that_nobody_could_serve_in_time_are_no_misses() -> None:
    seen = traffic()
    half = replace(seen, objective=replace(seen.objective, ttft_seconds=1e-3, transfer_seconds=0.0))
    assert half.feasible == 0.0
    assert settled(50.0, attained(0.0), debt=70.0, seen=half) == (50.0, 70.0)


def test_a_debt_is_paid_like_the_account_and_never_becomes_a_balance() -> None:
    assert settled(0.0, attained(1 - 3 * PLANNED), debt=10.0)[1] == pytest.approx(40.0)
    assert settled(0.0, attained(1.0), debt=100.0)[1] == pytest.approx(85.0)
    assert settled(0.0, attained(1.0), debt=5.0) == (pytest.approx(-15.0), 0.0)


def test_a_debt_outlasts_what_the_account_forgets() -> None:
    overdrawn, debt = settled(MOST_SECONDS, attained(0.0), debt=MOST_SECONDS, passed=60.0)
    assert overdrawn == MOST_SECONDS
    assert MOST_SECONDS < debt <= MOST_DEBT_SECONDS


@given(BALANCES, BALANCES)
def test_the_further_it_is_overdrawn_the_fewer_misses_are_planned_for(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert LEAST_PLANNED <= planned_misses(more) <= planned_misses(less) <= MOST_PLANNED
    assert planned_misses(0.0) == PLANNED_MISSES
