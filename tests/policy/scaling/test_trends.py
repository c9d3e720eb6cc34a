"""Loads by role: a burst is believed as far as it is likely to last, a change of the mix at once."""

from __future__ import annotations

from collections.abc import Mapping

from paceline.api.wire import Role
from paceline.policy.scaling.forecast import Trend
from paceline.policy.scaling.trends import likely_to_last

START_SECONDS = 90.0
STEP_AT = 1000.0


def stepped(before: float, after: float) -> Trend:
    """A load that changed at :data:`STEP_AT`, in the middle of what was seen."""
    return Trend(mean=(before + after) / 2, trust=1.0, before=before, level=after, step_at=STEP_AT)


def believed(trends: Mapping[Role, Trend], *, since: float) -> Mapping[Role, Trend]:
    return likely_to_last(trends, STEP_AT + since, start_seconds=START_SECONDS)


def test_a_burst_that_has_just_begun_is_believed_in_part() -> None:
    burst = {Role.PREFILL: stepped(2.0, 8.0), Role.DECODE: stepped(100.0, 400.0)}
    for role, trend in believed(burst, since=30.0).items():
        assert burst[role].mean < trend.level < burst[role].level


def test_most_of_a_rise_that_has_lasted_is_believed() -> None:
    rise = {Role.PREFILL: stepped(2.0, 8.0), Role.DECODE: stepped(100.0, 400.0)}
    assert believed(rise, since=900.0)[Role.PREFILL].level > 7.5


def test_a_change_of_the_mix_is_believed_at_once() -> None:
    turn = {Role.PREFILL: stepped(8.0, 2.0), Role.DECODE: stepped(100.0, 400.0)}
    assert believed(turn, since=15.0) == turn


def test_a_fall_is_believed_at_once() -> None:
    fall = {Role.PREFILL: stepped(8.0, 2.0), Role.DECODE: stepped(400.0, 100.0)}
    assert believed(fall, since=15.0) == fall


def test_what_serves_both_roles_is_judged_by_its_own_load() -> None:
    burst = {Role.BOTH: stepped(2.0, 8.0)}
    assert believed(burst, since=30.0)[Role.BOTH].level < 8.0
