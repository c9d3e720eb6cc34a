"""What is made of one observation: how many sequences will run soon, by what came, ended and only waits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from paceline.policy.scaling.observation import Counts, Observation, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, completions, engines, observation, settings

RUNNING = 80
"""Sequences on the two decode engines, 40 on each."""


def seen(*, queued: int = 0, held: int = 0, running: int = RUNNING) -> Observation:
    """10 requests a second, of which none ended in the last 30 s.

    ``held``: of the queued ones, those that wait for a place among the streams.
    """
    steady = observation(10.0, queued_requests=queued, queued_decode=held)
    busy = engines(3, 0) + engines(0, 2, running=running // 2, kv_usage=0.3)
    return replace(steady, engines=busy, completions=completions([50] * 54 + [0] * 6))


def look(*, before: int | None = RUNNING, queued: int = 0, held: int = 0) -> Traffic:
    """``before``: sequences that ran, or waited for a place, 30 s ago."""
    now = seen(queued=queued, held=held)
    then = Want(at=now.now - 30, near=Counts(), far=Counts(), ready=Counts(), decoding=before)
    return measure(now, PolicyState(wants=(then,)), settings(), MODELS, OutputModel.of(()))


def test_answers_that_do_not_end_are_planned_for_before_they_are_known_to_be_long() -> None:
    growing = look(before=0)
    assert growing.to_run > growing.to_keep
    assert growing.to_run > look(before=20).to_run


def test_requests_that_came_and_did_not_end_are_not_taken_for_running_ones() -> None:
    refused = look(before=RUNNING)
    assert refused.to_run == refused.to_keep, "300 were refused, or went away, or wait for their prompt"


def test_nothing_grows_by_chance_or_where_nobody_knows_what_was_before() -> None:
    assert look(before=RUNNING - 50).to_run == look(before=None).to_run == look(before=RUNNING).to_run


def test_requests_that_wait_for_a_place_among_streams_need_as_many_engines_as_if_they_had_one() -> None:
    none, some = look(), look(queued=40, held=40)
    assert some.running == pytest.approx(1.5 * none.running)


def test_no_more_of_them_are_planned_for_than_run() -> None:
    as_many, far_more = (look(queued=count, held=count) for count in (80, 5000))
    assert (far_more.running, far_more.to_keep) == (as_many.running, as_many.to_keep)


def test_those_who_have_come_to_wait_for_a_place_are_growth() -> None:
    held = look(queued=80, held=80)
    assert held.to_run > held.to_keep
    assert look(queued=80, held=80, before=2 * RUNNING).to_run == held.to_keep, "they waited before"
    prompts = look(queued=300)
    assert prompts.to_run == prompts.to_keep, "a queue of prompts says nothing about answers"
