from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.routing.backlog import Backlog

SECONDS = st.floats(0.001, 100)


def test_what_an_engine_computes_gets_less_as_time_passes() -> None:
    backlog = Backlog()
    backlog.add("a", 3.0, now=10.0)
    backlog.add("b", 2.0, now=11.0)
    assert backlog.left(11.0) == 4.0
    assert backlog.left(12.5) == 2.5
    assert backlog.given == 5.0


def test_a_prompt_that_takes_longer_than_expected_holds_up_those_behind_it() -> None:
    backlog = Backlog()
    backlog.add("slow", 1.0, now=0.0)
    backlog.add("next", 2.0, now=0.0)
    assert backlog.left(100.0) == 2.0
    backlog.done("slow", now=100.0)
    assert backlog.left(100.5) == 1.5


def test_one_given_up_from_the_middle_does_not_set_back_the_first() -> None:
    backlog = Backlog()
    for name in "abc":
        backlog.add(name, 2.0, now=0.0)
    backlog.done("b", now=1.0)
    assert backlog.left(1.0) == 3.0


def test_an_engine_that_was_idle_begins_when_it_gets_something() -> None:
    backlog = Backlog()
    assert (bool(backlog), backlog.left(50.0)) == (False, 0.0)
    backlog.add("late", 2.0, now=50.0)
    assert backlog.left(51.0) == 1.0


def test_what_is_done_twice_counts_once() -> None:
    backlog = Backlog()
    backlog.add("a", 1.0, now=0.0)
    backlog.done("a", now=0.5)
    backlog.done("a", now=0.6)
    backlog.done("never given", now=0.7)
    assert (backlog.given, backlog.left(1.0)) == (0.0, 0.0)


@given(prompts=st.lists(SECONDS, min_size=1, max_size=20), passed=st.floats(0, 3000))
def test_what_is_left_lies_between_all_that_was_given_and_all_but_the_first(
    prompts: list[float], passed: float
) -> None:
    backlog = Backlog()
    for number, seconds in enumerate(prompts):
        backlog.add(number, seconds, now=0.0)
    assert sum(prompts[1:]) - 1e-6 <= backlog.left(passed) <= sum(prompts) + 1e-6
    for number in range(len(prompts)):
        backlog.done(number, now=passed)
    assert backlog.given == 0.0
    assert not backlog


@given(prompts=st.lists(SECONDS, min_size=1, max_size=20))
def test_an_engine_that_takes_as_long_as_expected_is_done_when_expected(prompts: list[float]) -> None:
    backlog, now = Backlog(), 0.0
    for number, seconds in enumerate(prompts):
        backlog.add(number, seconds, now=0.0)
    for number, seconds in enumerate(prompts):
        assert now + backlog.left(now) == pytest.approx(sum(prompts))
        now += seconds
        backlog.done(number, now=now)
