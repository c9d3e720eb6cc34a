"""Who waits, who is refused, when to come again, and how many retries there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Admission
from paceline.policy.routing.admission import may_wait, retry_after_seconds
from paceline.policy.routing.retries import MAX_SAVED, RetryBudget

LIMITS = Admission(max_queued_requests=2, max_queue_seconds=60)


def test_the_queue_is_bounded() -> None:
    assert may_wait(waiting=1, limits=LIMITS)
    assert not may_wait(waiting=2, limits=LIMITS)


def test_a_queue_of_no_length_refuses_at_once() -> None:
    assert not may_wait(waiting=0, limits=Admission(max_queued_requests=0))


def test_when_to_come_again_follows_the_rate_at_which_requests_finish() -> None:
    assert retry_after_seconds(waiting=99, released_per_second=10, limits=LIMITS) == 10
    assert retry_after_seconds(waiting=0, released_per_second=1000, limits=LIMITS) == 1
    assert retry_after_seconds(waiting=5, released_per_second=0, limits=LIMITS) == 60


@given(st.integers(0, 10**6), st.floats(0, 10**6))
def test_when_to_come_again_is_between_a_second_and_the_longest_wait(waiting: int, rate: float) -> None:
    assert 1 <= retry_after_seconds(waiting=waiting, released_per_second=rate, limits=LIMITS) <= 60


@given(st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_what_was_saved_and_earned(requests: list[bool]) -> None:
    budget = RetryBudget(share=0.2, saved=5)
    spent = 0
    for earns in requests:
        if earns:
            budget.earn()
        else:
            spent += budget.spend()
        assert 0 <= budget.saved <= MAX_SAVED
    assert spent <= 5 + 0.2 * sum(requests)
