"""The waiting line serves by class, then by what can still be saved, and starves nobody."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.waiting import SLACK, WaitingLine


def line(age_bound: float = 60.0) -> WaitingLine[str]:
    return WaitingLine(age_bound_seconds=age_bound)


def test_an_empty_line_has_nothing_to_serve() -> None:
    assert line().pop(0.0) is None


def test_the_earliest_deadline_goes_first() -> None:
    waiting = line()
    waiting.push("later", arrived=0, deadline=5, service_seconds=1)
    waiting.push("sooner", arrived=1, deadline=3, service_seconds=1)
    assert [waiting.pop(1), waiting.pop(1)] == ["sooner", "later"]


def test_a_request_that_can_not_meet_its_deadline_goes_after_those_that_can() -> None:
    waiting = line()
    waiting.push("hopeless", arrived=0, deadline=2, service_seconds=5)
    waiting.push("feasible", arrived=1, deadline=3, service_seconds=1)
    assert [waiting.pop(1), waiting.pop(1)] == ["feasible", "hopeless"]


def test_a_request_becomes_late_while_it_waits() -> None:
    waiting = line()
    waiting.push("first", arrived=0, deadline=2, service_seconds=1)
    waiting.push("second", arrived=0, deadline=9, service_seconds=1)
    assert waiting.pop(1.5) == "second"


def test_beyond_the_age_bound_a_late_request_goes_before_feasible_ones() -> None:
    waiting = line(age_bound=10)
    waiting.push("late", arrived=0, deadline=1, service_seconds=2)
    waiting.push("a", arrived=0, deadline=100, service_seconds=1)
    waiting.push("b", arrived=11, deadline=100, service_seconds=1)
    assert waiting.pop(5) == "a"
    assert waiting.pop(11) == "late"


def test_a_higher_class_goes_first_even_when_it_is_late() -> None:
    waiting = line()
    waiting.push("batch", arrived=0, deadline=100, service_seconds=1, priority=-1)
    waiting.push("interactive", arrived=0, deadline=0, service_seconds=1, priority=1)
    assert waiting.pop(5) == "interactive"


def test_a_withdrawn_request_is_never_served() -> None:
    waiting = line()
    gone = waiting.push("gone", arrived=0, deadline=1, service_seconds=1)
    waiting.push("here", arrived=0, deadline=2, service_seconds=1)
    assert waiting.withdraw(gone)
    assert not waiting.withdraw(gone)
    assert len(waiting) == 1
    assert waiting.pop(0) == "here"
    assert waiting.pop(0) is None


def test_a_line_that_is_not_served_forgets_those_who_left() -> None:
    waiting: WaitingLine[object] = WaitingLine(age_bound_seconds=60)
    stays = object()
    waiting.push(stays, arrived=0, deadline=1, service_seconds=1)
    left = []
    for _ in range(1000):
        item = _Leaver()
        left.append(weakref.ref(item))
        waiting.withdraw(waiting.push(item, arrived=0, deadline=1, service_seconds=1))
        del item
    gc.collect()
    assert sum(ref() is not None for ref in left) <= SLACK + 1
    assert waiting.pop(0) is stays


class _Leaver:
    """Something that can be weakly referred to."""


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 50), st.floats(0, 20), st.integers(-2, 2), st.booleans()),
        max_size=60,
    ),
    st.floats(0, 30),
)
def test_everything_that_waits_is_served_exactly_once(
    requests: list[tuple[float, float, float, int, bool]], age_bound: float
) -> None:
    waiting: WaitingLine[int] = WaitingLine(age_bound_seconds=age_bound)
    kept = []
    for number, (arrived, patience, service, priority, leaves) in enumerate(requests):
        ticket = waiting.push(
            number, arrived=arrived, deadline=arrived + patience, service_seconds=service, priority=priority
        )
        if leaves:
            waiting.withdraw(ticket)
        else:
            kept.append(number)
    assert len(waiting) == len(kept)
    served = []
    now = 0.0
    while (item := waiting.pop(now)) is not None:
        served.append(item)
        now += 1.0
    assert sorted(served) == kept
    assert len(waiting) == 0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 30), st.floats(0, 10)), min_size=1, max_size=40))
def test_within_a_class_no_hopeless_request_is_served_before_a_feasible_one(
    requests: list[tuple[float, float, float]],
) -> None:
    waiting: WaitingLine[int] = WaitingLine(age_bound_seconds=1e9)
    latest_start = {}
    for number, (arrived, patience, service) in enumerate(requests):
        waiting.push(number, arrived=arrived, deadline=arrived + patience, service_seconds=service)
        latest_start[number] = arrived + patience - service
    now = 10.0
    served_late = False
    while (item := waiting.pop(now)) is not None:
        feasible = now <= latest_start[item]
        assert not (feasible and served_late)
        served_late = served_late or not feasible
