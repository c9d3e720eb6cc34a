"""Quantiles of lists that are not sorted, and of nothing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.quantiles import interpolated, reached


def test_quantiles_are_interpolated() -> None:
    assert interpolated([4, 1, 3, 2], 0.5) == 2.5
    assert interpolated([7], 0.9) == 7
    assert interpolated([], 0.5) == 0


def test_of_nothing_nothing_is_reached() -> None:
    assert reached([], 0.5) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_what_is_reached_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    random.Random(1).shuffle(values)
    found = reached(values, share)
    assert found in values
    assert sum(one <= found for one in values) >= share * len(values) - 1e-9
    assert sum(one < found for one in values) < share * len(values)
