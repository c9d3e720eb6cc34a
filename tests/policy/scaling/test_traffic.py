"""What is made of one observation: how many sequences will run soon, by what came, ended and only waits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from paceline.policy.scaling.observation import Counts, Observation, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, completions, engines, observation, settings

UNFINISHED = 300
"""Requests of the last 30 s that did not end."""


def seen(*, queued: int, held: int = 0) -> Observation:
    """10 requests a second, of which none ended in the last 30 s; 40 sequences run on each of two decode engines.

    ``held``: of the queued ones, those that wait for a place among the streams.
    """
    steady = observation(10.0, queued_requests=queued, queued_decode=held)
    busy = engines(3, 0) + engines(0, 2, running=40, kv_usage=0.3)
    return replace(steady, engines=busy, completions=completions([50] * 54 + [0] * 6))


def look(*, queued: int, queued_before: int, held: int = 0) -> Traffic:
    now = seen(queued=queued, held=held)
    before = Want(at=now.now - 30, near=Counts(), far=Counts(), ready=Counts(), undecoded=queued_before)
    return measure(now, PolicyState(wants=(before,)), settings(), MODELS, OutputModel.of(()))


def test_answers_that_do_not_end_are_planned_for_before_they_are_known_to_be_long() -> None:
    assert look(queued=0, queued_before=0).to_run > 2 * look(queued=0, queued_before=0).to_keep


def test_prompts_that_queue_are_not_taken_for_answers_that_do_not_end() -> None:
    traffic = look(queued=UNFINISHED, queued_before=0)
    assert traffic.to_run == traffic.to_keep


def test_a_queue_that_was_there_before_hides_no_answers_that_do_not_end() -> None:
    assert look(queued=UNFINISHED, queued_before=UNFINISHED).to_run == look(queued=0, queued_before=0).to_run


def test_a_queue_that_gets_shorter_makes_more_run() -> None:
    assert look(queued=0, queued_before=200).to_run > look(queued=0, queued_before=0).to_run


def test_requests_that_wait_for_a_place_among_streams_need_as_many_engines_as_if_they_had_one() -> None:
    none, some = look(queued=0, queued_before=0), look(queued=40, queued_before=0, held=40)
    assert some.running == pytest.approx(1.5 * none.running)


def test_no_more_of_them_are_planned_for_than_run() -> None:
    as_many, far_more = (look(queued=count, queued_before=0, held=count) for count in (80, 5000))
    assert (far_more.running, far_more.to_keep) == (as_many.running, as_many.to_keep)


def test_requests_that_wait_for_a_place_hide_no_answers_that_do_not_end() -> None:
    held = look(queued=UNFINISHED, queued_before=0, held=UNFINISHED)
    assert held.to_run > look(queued=UNFINISHED, queued_before=0).to_run
    assert held.to_run >= look(queued=0, queued_before=0).to_run
