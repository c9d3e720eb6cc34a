"""Loads by role: bursts are not pods' business until they have lasted, a change of the mix is everybody's at once."""

from __future__ import annotations

from collections.abc import Mapping

from paceline.api.wire import Role
from paceline.policy.scaling.forecast import Trend
from paceline.policy.scaling.trends import for_pods

START_SECONDS = 90.0
STEP_AT = 1000.0


def stepped(before: float, after: float) -> Trend:
    """A load that changed at :data:`STEP_AT`, in the middle of what was seen."""
    return Trend(mean=(before + after) / 2, trust=1.0, before=before, level=after, step_at=STEP_AT)


def pods_for(trends: Mapping[Role, Trend], *, since: float) -> Mapping[Role, Trend]:
    return for_pods(trends, STEP_AT + since, start_seconds=START_SECONDS)


def test_pods_are_ordered_for_a_part_of_a_burst_that_has_just_begun() -> None:
    burst = {Role.PREFILL: stepped(2.0, 8.0), Role.DECODE: stepped(100.0, 400.0)}
    for role, trend in pods_for(burst, since=30.0).items():
        assert burst[role].mean < trend.level < burst[role].level


def test_pods_are_ordered_for_most_of_a_rise_that_has_lasted() -> None:
    rise = {Role.PREFILL: stepped(2.0, 8.0), Role.DECODE: stepped(100.0, 400.0)}
    assert pods_for(rise, since=900.0)[Role.PREFILL].level > 7.5


def test_a_change_of_the_mix_is_believed_at_once() -> None:
    turn = {Role.PREFILL: stepped(8.0, 2.0), Role.DECODE: stepped(100.0, 400.0)}
    assert pods_for(turn, since=15.0) == turn


def test_a_fall_is_believed_at_once() -> None:
    fall = {Role.PREFILL: stepped(8.0, 2.0), Role.DECODE: stepped(400.0, 100.0)}
    assert pods_for(fall, since=15.0) == fall


def test_what_serves_both_roles_is_judged_by_its_own_load() -> None:
    burst = {Role.BOTH: stepped(2.0, 8.0)}
    assert pods_for(burst, since=30.0)[Role.BOTH].level < 8.0
