"""How long engines are held: by how much the load has jumped, and what was needed for more than moments."""

from __future__ import annotations

import pytest

from paceline.api.wire import Role
from paceline.policy.scaling.observation import Counts, Want
from paceline.policy.scaling.windows import (
    CONFIRMED_SECONDS,
    HELD_SECONDS,
    MEMORY_SECONDS,
    confirmed_needs,
    down_window,
    kept_need,
    lasting_need,
    overdue,
    remember_want,
)
from tests.policy.scaling.scenes import settings

PERIOD = 15.0
START = 180.0


def wants(*needs: tuple[int, int]) -> tuple[Want, ...]:
    """One decision each: (near, far) prefill engines."""
    return tuple(
        Want(at=PERIOD * index, near=Counts(prefill=near), far=Counts(prefill=far), ready=Counts())
        for index, (near, far) in enumerate(needs)
    )


def test_a_steady_load_holds_engines_for_the_plain_window() -> None:
    assert (
        down_window(wants(*[(5, 5)] * 40), settings(), start_seconds=START, indebted=True)
        == settings().down_window_seconds
    )


@pytest.mark.parametrize(("before", "after"), [((5, 5), (15, 15)), ((15, 15), (5, 5))])
def test_a_jump_within_a_start_time_holds_them_longer_up_or_down(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    jumped = wants(*[before] * 20, *[after] * 3)
    assert down_window(jumped, settings(), start_seconds=START, indebted=True) == pytest.approx(9 * 180)
    assert down_window(jumped, settings(adaptive_window=False), start_seconds=START, indebted=True) == 180


def test_a_jump_that_cost_no_more_than_it_may_holds_no_engines() -> None:
    jumped = wants(*[(5, 5)] * 20, *[(20, 20)] * 3)
    assert down_window(jumped, settings(), start_seconds=START, indebted=False) == settings().down_window_seconds


def test_a_rise_that_was_planned_is_no_jump() -> None:
    planned = wants(*[(number, number + 12) for number in range(5, 40)])
    assert down_window(planned, settings(), start_seconds=START, indebted=True) == 180


def test_no_jump_holds_engines_for_longer_than_half_an_hour() -> None:
    jumped = wants(*[(1, 1)] * 20, (500, 500))
    assert down_window(jumped, settings(), start_seconds=START, indebted=True) == HELD_SECONDS


def jumps(*, apart: int, count: int, after: int) -> tuple[Want, ...]:
    """Needs of 5 engines, and of 20 for ten minutes at a time, ``apart`` looks from one to the next."""
    one = [*[(5, 5)] * (apart - 40), *[(20, 20)] * 40]
    return wants(*one * count, *[(5, 5)] * after)


def test_where_the_next_jump_is_overdue_engines_are_held_for_the_plain_window_only() -> None:
    """Jumps 20 minutes apart, which last for ten: the next one may come 25 minutes after the last one began."""
    awaited = jumps(apart=80, count=3, after=59)
    assert down_window(awaited, settings(), start_seconds=START, indebted=True) == HELD_SECONDS
    late = jumps(apart=80, count=3, after=62)
    assert overdue(late, start_seconds=START)
    assert down_window(late, settings(), start_seconds=START, indebted=True) == settings().down_window_seconds


def test_a_jump_that_has_come_once_is_never_overdue() -> None:
    assert not overdue(jumps(apart=80, count=1, after=150), start_seconds=START)


def test_the_wait_for_the_first_jump_counts_and_a_dip_between_begins_no_other() -> None:
    dipped = wants(*[(5, 5)] * 100, *[(20, 20)] * 5, (5, 20), *[(20, 20)] * 20, *[(5, 5)] * 20, *[(20, 20)] * 5)
    assert not overdue((*dipped, *later(dipped, 115)), start_seconds=START)
    assert overdue((*dipped, *later(dipped, 130)), start_seconds=START)


def later(before: tuple[Want, ...], looks: int) -> tuple[Want, ...]:
    """So many looks more, at which 5 engines are needed."""
    need = Counts(prefill=5)
    begin = before[-1].at
    return tuple(Want(at=begin + PERIOD * (1 + n), near=need, far=need, ready=Counts()) for n in range(looks))


def test_the_plain_window_keeps_its_largest_need() -> None:
    recent = wants(*[(5, 5)] * 30, (5, 9), *[(5, 5)] * 5)
    assert kept_need(recent, (Role.PREFILL,), settings(), since=0.0) == 9


def test_of_a_long_window_what_was_needed_for_moments_is_left_out() -> None:
    moment = wants((5, 30), *[(5, 5)] * 60)
    assert kept_need(moment, (Role.PREFILL,), settings(), since=0.0) == 5
    often = wants(*[(5, 30)] * 10, *[(5, 5)] * 60)
    assert kept_need(often, (Role.PREFILL,), settings(), since=0.0) == 30


def test_of_a_long_window_no_more_is_kept_than_was_plenty_and_the_plain_window_keeps_its_own() -> None:
    held = wants(*[(5, 30)] * 20, *[(5, 5)] * 20)
    assert kept_need(held, (Role.PREFILL,), settings(), since=0.0, plenty=12) == 12
    assert kept_need(held, (Role.PREFILL,), settings(), since=0.0, plenty=40) == 30
    just_now = wants(*[(5, 30)] * 20)
    assert kept_need(just_now, (Role.PREFILL,), settings(), since=0.0, plenty=12) == 30


NEAR = {Role.PREFILL: 8, Role.DECODE: 4}
STEEP = {Role.PREFILL: 24, Role.DECODE: 16}


def looked(*totals: int) -> tuple[Want, ...]:
    """Looks every 15 s until 0, with so many engines foreseen."""
    return tuple(
        Want(at=-15.0 * (len(totals) - 1 - index), near=Counts(), far=Counts(), ready=Counts(), foreseen=seen)
        for index, seen in enumerate(Counts(prefill=total) for total in totals)
    )


def test_what_only_a_forecast_asks_for_waits_until_two_looks_more_foresee_it_too() -> None:
    assert confirmed_needs(STEEP, NEAR, looked(6, 6), now=15.0) == NEAR
    assert confirmed_needs(STEEP, NEAR, looked(6, 40), now=15.0) == NEAR
    assert confirmed_needs(STEEP, NEAR, looked(6, 40, 40), now=15.0) == STEEP
    assert confirmed_needs(STEEP, NEAR, looked(6, 20, 40), now=15.0) == {Role.PREFILL: 12, Role.DECODE: 8}


def test_no_role_waits_with_what_it_needs_already() -> None:
    lopsided = {Role.PREFILL: 40, Role.DECODE: 4}
    assert confirmed_needs(lopsided, NEAR, looked(6), now=15.0) == {Role.PREFILL: 10, Role.DECODE: 4}


def test_nothing_waits_where_nobody_looked_of_late() -> None:
    assert confirmed_needs(STEEP, NEAR, (), now=0.0) == STEEP
    assert confirmed_needs(STEEP, NEAR, looked(6), now=CONFIRMED_SECONDS + 1) == STEEP


def test_a_need_lasts_only_if_every_decision_had_it() -> None:
    needs = wants((5, 5), (9, 5), (8, 5), (7, 5))
    assert lasting_need(needs, Role.PREFILL, since=15.0) == 7
    assert lasting_need(needs, Role.PREFILL, since=-1.0) == 0


def test_what_is_remembered_is_bounded() -> None:
    remembered: tuple[Want, ...] = ()
    for want in wants(*[(1, 1)] * 600):
        remembered = remember_want(remembered, want, settings())
    assert remembered[-1].at - remembered[0].at <= MEMORY_SECONDS
