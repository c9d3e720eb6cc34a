"""Who may wait: rates are those of the time in which some wait, and nobody waits in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Late
from paceline.policy.overload import GRACE_SECONDS, LATE_SHARE, MARGIN, Prospect, Refusals, ServedRate, Verdict
from paceline.policy.waiting import WaitingLine

LIMIT, REFUSE, SERVE = (Refusals(60.0, 45.0, late) for late in (Late.LIMIT, Late.REFUSE, Late.SERVE))
LONG = GRACE_SECONDS + 1.0


def served_evenly(rate: ServedRate, per_second: float, seconds: float) -> float:
    """One after the other from 0 on. Returns when the last was served."""
    rate.waiting(0.0, some=True)
    count = int(seconds * per_second)
    for number in range(1, count + 1):
        rate.served(number / per_second)
    return count / per_second


@given(st.floats(0.5, 30.0))
def test_the_rate_is_what_was_served_while_some_waited(per_second: float) -> None:
    rate = ServedRate(10.0)
    now = served_evenly(rate, per_second, 50.0)
    assert rate.per_second(now) == pytest.approx(per_second + 0.1, rel=0.15)


def test_time_in_which_nobody_waits_says_nothing() -> None:
    rate = ServedRate(10.0)
    now = served_evenly(rate, 20.0, 60.0)
    rate.waiting(now, some=False)
    assert rate.per_second(now + 1000.0) == pytest.approx(rate.per_second(now))


def test_nothing_is_known_after_a_moment() -> None:
    rate = ServedRate(10.0)
    rate.waiting(0.0, some=True)
    rate.served(0.5, 10)
    assert rate.per_second(1.0) is None
    assert rate.per_second(5.0) is not None


def test_nothing_is_known_while_one_long_prompt_is_computed() -> None:
    rate = ServedRate(10.0)
    rate.waiting(0.0, some=True)
    rate.served(8.0, 2)
    assert rate.per_second(8.0) is None


def test_time_without_engines_says_nothing() -> None:
    rate = ServedRate(10.0)
    rate.waiting(0.0, some=True)
    rate.served(1.0, 100)
    rate.forget(30.0)
    assert rate.per_second(30.0) is None
    rate.served(33.0, 60)
    assert rate.per_second(33.0) == pytest.approx(20.0, rel=0.2)


def test_a_rate_that_fell_is_forgotten() -> None:
    rate = ServedRate(10.0)
    now = served_evenly(rate, 100.0, 60.0)
    later = rate.per_second(now + 30.0)
    assert later is not None
    assert later < 10.0


def test_nobody_is_refused_while_nothing_is_known() -> None:
    for rule in (LIMIT, REFUSE, SERVE):
        assert rule.verdict(Prospect(10_000, 10_000, LONG, None), slack_seconds=0.1) is Verdict.IN_TIME


@pytest.mark.parametrize("rule", [LIMIT, REFUSE, SERVE])
def test_who_would_not_be_served_within_twice_the_longest_wait_is_refused(rule: Refusals) -> None:
    assert rule.verdict(Prospect(1201, 0, LONG, 10.0), slack_seconds=200.0) is Verdict.IN_VAIN
    assert rule.verdict(Prospect(1199, 0, LONG, 10.0), slack_seconds=200.0) is Verdict.IN_TIME


def test_as_many_wait_in_time_as_are_served_before_their_latest_start_with_a_margin() -> None:
    most = 10.0 * MARGIN * 2.0
    assert LIMIT.verdict(Prospect(int(most) - 1, 0, LONG, 10.0), slack_seconds=2.0) is Verdict.IN_TIME
    assert LIMIT.verdict(Prospect(int(most), 0, LONG, 10.0), slack_seconds=2.0) is Verdict.LATE
    assert REFUSE.verdict(Prospect(int(most), 0, 0.0, 10.0), slack_seconds=2.0) is Verdict.IN_VAIN


def test_late_requests_wait_for_the_end_of_a_burst_and_in_a_lasting_overload_few_do() -> None:
    burst, after = GRACE_SECONDS - 1.0, GRACE_SECONDS + 1.0
    assert LIMIT.late_places(10.0, burst) > 10**9
    assert LIMIT.late_places(10.0, after) == 10.0 * LATE_SHARE * 45.0
    assert REFUSE.late_places(10.0, burst) == 0.0
    assert SERVE.late_places(10.0, after) > 10**9


def test_those_that_came_last_are_given_up() -> None:
    line: WaitingLine[int] = WaitingLine(age_bound_seconds=45.0, refusals=LIMIT)
    for number in range(230):
        line.push(number, arrived=0.0, deadline=1.0, service_seconds=0.5)
    now = 0.0
    for _ in range(160):  # one a second
        now += 1.0
        line.pop(now)
        if now < GRACE_SECONDS:
            assert line.surplus(now) == []
    given_up = line.surplus(now)
    assert given_up
    assert given_up == sorted(given_up, reverse=True)
    assert given_up[0] == 229
    assert len(line) == 70 - len(given_up)
    assert line.surplus(now) == []


def test_who_waited_for_an_engine_to_come_is_not_given_up_for_being_late() -> None:
    line: WaitingLine[str] = WaitingLine(age_bound_seconds=45.0, refusals=LIMIT)
    for number in range(250):
        line.push(f"slept {number}", arrived=0.0, deadline=2.0, service_seconds=0.5)
    line.nobody_serves(60.0)
    assert line.surplus(60.0) == []
    served, given_up = [], []
    for second in range(61, 261):  # one a second, and as many come
        line.push(f"new {second}", arrived=second, deadline=second + 2.0, service_seconds=0.5, late=True)
        served.append(line.pop(float(second)))
        given_up += line.surplus(float(second))
    assert all(one is not None and one.startswith("slept") for one in served)
    assert given_up
    assert all(one.startswith("new") for one in given_up)  # for these there are as few places as ever


def test_who_comes_while_those_are_served_may_wait_behind_them() -> None:
    line: WaitingLine[int] = WaitingLine(age_bound_seconds=45.0, refusals=LIMIT)
    for number in range(300):
        line.push(number, arrived=0.0, deadline=2.0, service_seconds=0.5)
    line.nobody_serves(60.0)
    now = 60.0
    while now < 65.0:  # ten a second
        now += 0.1
        line.pop(now)
    assert line.surplus(now) == []
    assert line.verdict(now, latest_start=now + 1.5) is Verdict.IN_TIME


def test_who_is_known_to_be_late_makes_nobody_else_late() -> None:
    line: WaitingLine[str] = WaitingLine(age_bound_seconds=45.0)
    line.push("late", arrived=0.0, deadline=1.0, service_seconds=0.5, late=True)
    line.push("in time", arrived=0.1, deadline=1.1, service_seconds=0.5)
    assert [line.pop(0.2), line.pop(0.2)] == ["in time", "late"]


def test_tenants_are_judged_by_what_is_served_of_their_own() -> None:
    line: WaitingLine[str] = WaitingLine(age_bound_seconds=45.0, refusals=REFUSE)
    for number in range(200):
        line.push("flood", arrived=number / 100, deadline=number / 100 + 2, service_seconds=0.1, tenant="flood")
    now = 2.0
    for _ in range(40):
        now += 0.1
        line.pop(now)
    assert line.verdict(now, latest_start=now + 1.9, tenant="flood") is Verdict.IN_TIME  # its own went late meanwhile
    line.push("flood", arrived=now, deadline=now + 2, service_seconds=0.1, tenant="flood")
    for _ in range(40):
        line.push("flood", arrived=now, deadline=now + 2, service_seconds=0.1, tenant="flood")
    assert line.verdict(now, latest_start=now + 1.9, tenant="flood") is Verdict.IN_VAIN
    assert line.verdict(now, latest_start=now + 1.9, tenant="quiet") is Verdict.IN_TIME
