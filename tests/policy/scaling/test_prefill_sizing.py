"""Prefill sizing by closed form and by replay: what they agree on, and where only the replay is right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.policy.scaling.prefill_sizing import (
    PrefillArrival,
    PrefillObjective,
    closed_form_engines,
    replay,
    replay_engines,
)
from paceline.policy.waiting import WaitingLine

OBJECTIVE = PrefillObjective(ttft_seconds=2.0, target=0.95)


def poisson(rate: float, seconds: float, service: float, seed: int = 1) -> list[PrefillArrival]:
    rng = random.Random(seed)
    arrivals, now = [], rng.expovariate(rate)
    while now < seconds:
        arrivals.append(PrefillArrival(now, service))
        now += rng.expovariate(rate)
    return arrivals


arrival_lists = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 4)), max_size=80).map(
    lambda rows: [
        PrefillArrival(sum(gap for gap, _ in rows[: index + 1]), service) for index, (_, service) in enumerate(rows)
    ]
)


def test_no_arrivals_need_no_engine() -> None:
    assert replay_engines([], OBJECTIVE, guess=3, at_most=10).engines == 0
    assert closed_form_engines([], 0.0, 1.0, OBJECTIVE, at_most=10) == 0


def test_one_engine_serves_what_fits_one_after_the_other() -> None:
    arrivals = [PrefillArrival(0.0, 1.0), PrefillArrival(0.5, 1.0), PrefillArrival(1.0, 1.0)]
    outcome = replay(arrivals, 1, OBJECTIVE)
    assert (outcome.feasible, outcome.attained) == (3, 3)


def test_a_hopeless_request_is_not_in_the_target_but_in_the_load() -> None:
    long = PrefillArrival(0.0, 3.0)
    short = PrefillArrival(0.1, 0.5)
    assert replay([long], 1, OBJECTIVE).attainment == 1.0
    held_up = replay([long, short], 1, OBJECTIVE)
    assert (held_up.feasible, held_up.attained) == (1, 0)
    assert replay([long, short], 2, OBJECTIVE).attained == 1


def test_on_steady_traffic_closed_form_and_replay_are_close() -> None:
    arrivals = poisson(rate=8.0, seconds=600, service=0.5)
    guess = closed_form_engines([0.5], 8.0, 1.0, OBJECTIVE, at_most=50)
    exact = replay_engines(arrivals, OBJECTIVE, guess=guess, at_most=50).engines
    assert abs(guess - exact) <= 1


def test_on_bursts_the_closed_form_asks_for_too_few_and_the_replay_does_not() -> None:
    arrivals = [PrefillArrival(60.0 * minute, 0.5) for minute in range(10) for _ in range(40)]
    rate = len(arrivals) / 600
    guess = closed_form_engines([0.5], rate, 1.0, OBJECTIVE, at_most=50)
    exact = replay_engines(arrivals, OBJECTIVE, guess=guess, at_most=50)
    assert guess <= 2
    # 40 arrivals of 0.5 s within a budget of 2 s: four in a row on each engine, of which 5% may miss.
    assert exact.engines == 10
    assert exact.attainment >= 0.95


def test_when_no_number_is_enough_the_largest_is_reported_with_what_it_attains() -> None:
    arrivals = [PrefillArrival(0.0, 1.0) for _ in range(100)]
    outcome = replay_engines(arrivals, OBJECTIVE, guess=1, at_most=5)
    assert outcome.engines == 5
    assert outcome.attainment == pytest.approx(0.1)


@given(arrival_lists, st.integers(1, 8))
def test_every_feasible_arrival_is_counted(arrivals: list[PrefillArrival], engines: int) -> None:
    outcome = replay(arrivals, engines, OBJECTIVE)
    assert outcome.feasible == sum(a.service_seconds <= OBJECTIVE.budget_seconds for a in arrivals)
    assert 0 <= outcome.attained <= outcome.feasible


@given(arrival_lists)
def test_with_an_engine_for_each_arrival_all_feasible_ones_attain(arrivals: list[PrefillArrival]) -> None:
    outcome = replay(arrivals, max(1, len(arrivals)), OBJECTIVE)
    assert outcome.attained == outcome.feasible


@settings(max_examples=50)
@given(arrival_lists, st.integers(1, 20))
def test_the_guess_only_saves_time(arrivals: list[PrefillArrival], guess: int) -> None:
    sized = replay_engines(arrivals, OBJECTIVE, guess=guess, at_most=100)
    assert sized.attainment >= OBJECTIVE.target or sized.engines == 100


@given(st.floats(0.1, 40), st.floats(1, 3), st.floats(0.01, 1.5))
def test_the_closed_form_is_monotone_in_load(rate: float, factor: float, service: float) -> None:
    less = closed_form_engines([service], rate, 1.0, OBJECTIVE, at_most=500)
    more = closed_form_engines([service], rate * factor, 1.0, OBJECTIVE, at_most=500)
    assert more >= less


def served_in_the_routers_order(arrivals: list[PrefillArrival], engines: int, objective: PrefillObjective) -> int:
    """The replay written with the router's own waiting line: how many are in time."""
    line: WaitingLine[PrefillArrival] = WaitingLine(age_bound_seconds=objective.late_age_bound_seconds)
    budget = objective.budget_seconds
    free_at = [0.0] * engines
    attained, upcoming, now = 0, 0, 0.0
    while upcoming < len(arrivals) or len(line):
        free_at.sort()
        now = max(now, free_at[0] if len(line) else max(free_at[0], arrivals[upcoming].seconds))
        while upcoming < len(arrivals) and arrivals[upcoming].seconds <= now:
            one = arrivals[upcoming]
            line.push(one, arrived=one.seconds, deadline=one.seconds + budget, service_seconds=one.service_seconds)
            upcoming += 1
        served = line.pop(now)
        assert served is not None
        free_at[0] = now + served.service_seconds
        attained += served.service_seconds <= budget and free_at[0] - served.seconds <= budget + 1e-9
    return attained


@given(arrival_lists, st.integers(1, 6), st.sampled_from([0.0, 2.0, 60.0]))
def test_the_replay_serves_in_the_routers_order(arrivals: list[PrefillArrival], engines: int, age_bound: float) -> None:
    objective = PrefillObjective(ttft_seconds=2.0, late_age_bound_seconds=age_bound)
    assert replay(arrivals, engines, objective).attained == served_in_the_routers_order(arrivals, engines, objective)
