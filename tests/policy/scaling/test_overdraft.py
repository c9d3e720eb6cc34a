"""What was missed beyond the allowance is made good later; what was not missed is no credit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.needs import PLANNED_MISSES
from paceline.policy.scaling.observation import Attainment, PolicyState
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.overdraft import LEAST_PLANNED, PAYBACK_SECONDS, overdrawn, planned_misses
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, observation, settings

TARGET = settings().target


def traffic() -> Traffic:
    """One window in which every request could be served in time."""
    return measure(observation(5.0), PolicyState(), settings(), MODELS, OutputModel.of(()))


def attained(share: float, *, requests: int = 1000) -> Attainment:
    return Attainment(requests=requests, ttft=share, itl=1.0, both=share)


def after(seconds: float, share: float, *, passed: float = 15.0, requests: int = 1000) -> float:
    seen = traffic()
    return overdrawn(seconds, seen, attained(share, requests=requests), settings(), since=seen.end - passed)


def test_missing_twice_what_is_allowed_overdraws_by_the_time_it_lasted() -> None:
    assert after(0.0, 1 - 2 * (1 - TARGET)) == pytest.approx(15.0)


def test_missing_nothing_pays_back_as_much_as_the_time_it_lasted() -> None:
    assert after(100.0, 1.0) == pytest.approx(85.0)


def test_missing_just_what_is_allowed_leaves_it_as_it_is() -> None:
    assert after(100.0, TARGET) == pytest.approx(100.0)


@given(st.floats(0, PAYBACK_SECONDS), st.floats(0, 1), st.floats(0, 600))
def test_there_is_no_credit_and_an_end_to_debt(seconds: float, share: float, passed: float) -> None:
    assert 0 <= after(seconds, share, passed=passed) <= PAYBACK_SECONDS


def test_few_requests_and_unknown_attainment_say_nothing() -> None:
    seen = traffic()
    assert after(100.0, 0.0, requests=10) == 100.0
    assert overdrawn(100.0, seen, None, settings(), since=seen.end - 15) == 100.0
    assert overdrawn(100.0, seen, attained(0.0), settings(), since=None) == 100.0


def test_requests_that_nobody_could_serve_in_time_are_no_misses() -> None:
    seen = traffic()
    half = replace(seen, objective=replace(seen.objective, ttft_seconds=1e-3, transfer_seconds=0.0))
    assert half.feasible == 0.0
    assert overdrawn(50.0, half, attained(0.0), settings(), since=half.end - 15) == 50.0


@given(st.floats(0, PAYBACK_SECONDS), st.floats(0, PAYBACK_SECONDS))
def test_the_further_it_is_overdrawn_the_fewer_misses_are_planned_for(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert LEAST_PLANNED <= planned_misses(more) <= planned_misses(less) <= PLANNED_MISSES
