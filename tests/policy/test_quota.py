"""A quota gives no more than it should, and what it says about when to come again is true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.quota import TokenQuota

AMOUNTS = st.integers(1, 1_000_000)


def test_a_minute_s_tokens_can_be_used_at_once() -> None:
    quota = TokenQuota(600, 0)
    assert quota.wait_seconds(600, 0) == 0
    quota.take(600, 0)
    assert quota.wait_seconds(1, 0) == 1


def test_tokens_come_back_evenly_and_not_above_a_minute_s() -> None:
    quota = TokenQuota(600, 0)
    quota.take(600, 0)
    assert quota.level(30) == pytest.approx(300)
    assert quota.level(600) == 600


def test_what_was_expected_and_not_used_is_given_back() -> None:
    quota = TokenQuota(600, 0)
    quota.take(500, 0)
    quota.take(-400, 0)
    assert quota.level(0) == 500


def test_an_answer_longer_than_expected_is_paid_back_before_anything_else_is_given() -> None:
    quota = TokenQuota(60, 0)
    quota.take(60, 0)
    quota.take(120, 0)
    assert quota.wait_seconds(1, 0) == 121


def test_a_request_larger_than_a_minute_s_tokens_is_served_once_the_bucket_is_full() -> None:
    quota = TokenQuota(60, 0)
    assert quota.wait_seconds(1000, 0) == 0
    quota.take(1000, 0)
    assert quota.wait_seconds(1000, 0) == 1000


@given(AMOUNTS, st.lists(AMOUNTS, max_size=5), AMOUNTS, st.floats(0, 1e6))
def test_who_comes_again_when_told_is_served_and_a_second_earlier_is_not(
    per_minute: int, taken: list[int], wanted: int, now: float
) -> None:
    quota = TokenQuota(per_minute, now)
    for tokens in taken:
        quota.take(tokens, now)
    seconds = quota.wait_seconds(wanted, now)
    if seconds > 1:
        assert quota.wait_seconds(wanted, now + seconds - 1.001) > 0
    assert quota.wait_seconds(wanted, now + seconds + 0.001) == 0


@given(AMOUNTS, st.lists(st.tuples(AMOUNTS, st.floats(0, 100)), max_size=50))
def test_over_a_long_time_no_more_is_used_than_a_minute_s_tokens_a_minute(
    per_minute: int, asks: list[tuple[int, float]]
) -> None:
    quota = TokenQuota(per_minute, 0)
    now = used = 0.0
    for tokens, later in asks:
        now += later
        if quota.wait_seconds(tokens, now) == 0:
            quota.take(tokens, now)
            used += tokens
    largest = max((tokens for tokens, _ in asks), default=0)
    assert used <= per_minute * (1 + now / 60) + largest + 1
