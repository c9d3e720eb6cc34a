"""What prefill and decode are planned for, so that both objectives together are met by the target share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.needs import DECODE_WAITS, LEAST_DECODED, decode_target, ttft_target
from tests.policy.scaling.scenes import settings

shares = st.floats(0.2, 1.6)
"""Of the allowed misses, that are planned with."""
targets = st.floats(0.5, 1.0)


@given(shares, targets)
def test_where_nobody_is_held_the_roles_share_the_planned_misses(misses: float, target: float) -> None:
    told = settings(target=target, hold_for_itl=False)
    missed = (1 - ttft_target(told, misses)) + (1 - decode_target(told, misses))
    assert missed == pytest.approx(misses * (1 - target))


@given(shares, targets)
def test_where_requests_wait_for_a_place_decode_may_have_too_few_for_more_of_them(misses: float, target: float) -> None:
    held, added = (decode_target(settings(target=target, hold_for_itl=hold), misses) for hold in (True, False))
    assert held <= added
    assert held == pytest.approx(max(LEAST_DECODED, 1 - DECODE_WAITS * misses * (1 - target)))


@given(shares, targets)
def test_prefill_is_planned_for_the_same_share_whether_they_wait_or_not(misses: float, target: float) -> None:
    held, added = (ttft_target(settings(target=target, hold_for_itl=hold), misses) for hold in (True, False))
    assert held == added
