"""When an engine gets no more work, and when it gets some again."""

from __future__ import annotations

from paceline_worker.router.health import CHECK_SECONDS, FIRST_HOLD_SECONDS, LONGEST_HOLD_SECONDS, Health


def test_an_engine_that_refuses_connections_is_out_at_once() -> None:
    health = Health()
    assert health.failed(refused=True)
    assert not health.usable


def test_others_are_out_after_three_failures_in_a_row() -> None:
    health = Health()
    assert [health.failed(refused=False) for _ in range(2)] == [False, False]
    health.request_succeeded()
    assert [health.failed(refused=False) for _ in range(3)] == [False, False, True]


def test_a_check_that_is_answered_brings_an_engine_back() -> None:
    health = Health()
    health.failed(refused=True)
    assert health.check_succeeded()
    assert health.usable
    assert health.next_check_seconds == CHECK_SECONDS


def test_an_engine_that_answers_checks_and_serves_nobody_rests_longer_each_time() -> None:
    health = Health()
    rests = []
    for _ in range(6):
        assert health.hung()
        assert not health.hung(), "it is out already"
        rests.append(health.next_check_seconds)
        health.check_succeeded()
    assert rests[:2] == [FIRST_HOLD_SECONDS, 2 * FIRST_HOLD_SECONDS]
    assert rests[-1] == LONGEST_HOLD_SECONDS
    health.request_succeeded()
    assert health.hung()
    assert health.next_check_seconds == FIRST_HOLD_SECONDS
