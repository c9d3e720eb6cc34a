"""The waiting line serves by class, then by what can still be saved, and starves nobody."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.waiting import SLACK, WaitingLine, age_bound_seconds


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


def test_tenants_take_turns_by_what_their_requests_cost_not_by_how_many_they_are() -> None:
    waiting = line()
    for number in range(10):
        waiting.push("large", arrived=0, deadline=number, service_seconds=-100, tenant="large", cost=4)
    for number in range(20):
        waiting.push("small", arrived=0, deadline=100 + number, service_seconds=-100, tenant="small", cost=1)
    served = [waiting.pop(0) for _ in range(20)]
    assert (served.count("large"), served.count("small")) == (4, 16)


def test_a_tenant_who_floods_the_line_delays_another_by_its_turn_only() -> None:
    waiting = line()
    for number in range(100):
        waiting.push(f"flood {number}", arrived=0, deadline=1, service_seconds=0, tenant="flood", cost=10)
    assert waiting.pop(0) == "flood 0"
    waiting.push("single", arrived=0, deadline=50, service_seconds=0, tenant="quiet", cost=10)
    assert "single" in {waiting.pop(0), waiting.pop(0)}


def test_who_comes_back_has_no_claim_from_the_time_in_which_it_did_not_wait() -> None:
    waiting = line()
    waiting.push("b", arrived=0, deadline=1, service_seconds=0, tenant="b")
    assert waiting.pop(0) == "b"
    for _ in range(50):
        waiting.push("a", arrived=0, deadline=1, service_seconds=0, tenant="a")
    for _ in range(40):
        assert waiting.pop(0) == "a"
    for _ in range(10):
        waiting.push("b", arrived=0, deadline=1, service_seconds=0, tenant="b")
    assert [waiting.pop(0) for _ in range(8)].count("b") <= 5


def test_what_can_be_saved_of_any_tenant_goes_before_what_is_late_of_another() -> None:
    waiting = line(age_bound=10)
    waiting.push("late", arrived=0, deadline=1, service_seconds=0, tenant="a")
    waiting.push("feasible", arrived=0, deadline=20, service_seconds=0, tenant="b", cost=100)
    waiting.push("feasible too", arrived=0, deadline=30, service_seconds=0, tenant="b", cost=100)
    assert [waiting.pop(5), waiting.pop(5), waiting.pop(5)] == ["feasible", "feasible too", "late"]


def test_late_requests_beyond_the_age_bound_of_one_tenant_take_turns_with_another_s_feasible_ones() -> None:
    waiting = line(age_bound=10)
    for _ in range(10):
        waiting.push("old", arrived=0, deadline=1, service_seconds=0, tenant="flood")
    assert waiting.pop(5) == "old"  # nothing else waits; from now on the others are known to be late
    for _ in range(10):
        waiting.push("new", arrived=60, deadline=90, service_seconds=0, tenant="quiet")
    assert [waiting.pop(60) for _ in range(8)].count("new") == 4


def test_a_request_that_was_popped_and_not_served_costs_its_tenant_nothing() -> None:
    waiting = line()
    for _ in range(4):
        tickets = {
            name: waiting.push(name, arrived=0, deadline=1, service_seconds=0, tenant=name) for name in ("a", "b")
        }
    first = waiting.pop(0)
    assert first == "a"
    for _ in range(3):
        waiting.not_served(tickets["a"], 0)
        waiting.push("a", arrived=0, deadline=1, service_seconds=0, tenant="a")
        assert waiting.pop(0) == "a"
    assert waiting.pop(0) == "b"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=80))
def test_while_tenants_wait_their_shares_differ_by_no_more_than_two_requests(requests: list[tuple[str, int]]) -> None:
    waiting: WaitingLine[tuple[str, int]] = WaitingLine(age_bound_seconds=60)
    left = dict.fromkeys("abc", 0)
    for tenant, cost in requests:
        waiting.push((tenant, cost), arrived=0, deadline=1, service_seconds=0, tenant=tenant, cost=cost)
        left[tenant] += 1
    served = {name: 0 for name, count in left.items() if count}
    largest = max(cost for _, cost in requests)
    while all(left[name] for name in served) and (item := waiting.pop(0)) is not None:
        tenant, cost = item
        left[tenant] -= 1
        served[tenant] += cost
        assert max(served.values()) - min(served.values()) <= 2 * largest


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
            number, arrived=arrived, deadline=arrived + patience, service_seconds=service, priority=priority,
            tenant="abc"[number % 3],
        )  # fmt: skip
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


def test_the_age_bound_leaves_a_late_request_time_before_the_queue_refuses_it() -> None:
    assert age_bound_seconds(60, 60) == 45
    assert age_bound_seconds(300, 60) == 45


def test_a_shorter_age_bound_stays_as_it_is() -> None:
    assert age_bound_seconds(10, 60) == 10


def test_somebody_is_overdue_who_is_late_and_has_waited_longer_than_the_age_bound() -> None:
    waiting = line(age_bound=10)
    assert not waiting.overdue(0)
    waiting.push("late", arrived=0, deadline=1, service_seconds=2, late=True)
    assert not waiting.overdue(10)
    assert waiting.overdue(10.5)
    assert waiting.pop(10.5) == "late"
    assert not waiting.overdue(10.5)


def test_who_can_still_be_in_time_is_not_overdue_however_long_it_has_waited() -> None:
    waiting = line(age_bound=10)
    waiting.push("patient", arrived=0, deadline=1000, service_seconds=1)
    assert not waiting.overdue(500)


def test_who_has_left_is_not_overdue() -> None:
    waiting = line(age_bound=10)
    gone = waiting.push("gone", arrived=0, deadline=1, service_seconds=2, late=True)
    waiting.push("stays", arrived=8, deadline=9, service_seconds=2, late=True)
    assert waiting.overdue(11)
    waiting.withdraw(gone)
    assert not waiting.overdue(11)
    assert waiting.overdue(19)


def test_one_of_any_tenant_can_be_overdue() -> None:
    waiting = line(age_bound=10)
    waiting.push("quiet", arrived=5, deadline=100, service_seconds=1, tenant="a")
    waiting.push("late", arrived=0, deadline=1, service_seconds=2, tenant="b", late=True)
    assert waiting.overdue(11)


def test_one_who_waits_behind_another_class_is_not_overdue() -> None:
    waiting = line(age_bound=10)
    waiting.push("batch", arrived=0, deadline=1, service_seconds=2, priority=-1, late=True)
    assert waiting.overdue(11)
    waiting.push("ordinary", arrived=10, deadline=100, service_seconds=1)
    assert not waiting.overdue(11), "it would not be the next"
    assert waiting.pop(11) == "ordinary"
    assert waiting.overdue(11)
