"""What is made of one observation: how many sequences will run soon, by what came, ended and only waits."""

from __future__ import annotations

from msgspec.structs import replace

from paceline.policy.scaling.observation import Counts, Observation, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.traffic import Traffic, measure
from tests.policy.scaling.scenes import MODELS, completions, engines, observation, settings

UNFINISHED = 300
"""Requests of the last 30 s that did not end."""


def seen(*, queued: int) -> Observation:
    """10 requests a second, of which none ended in the last 30 s; 40 sequences run on each of two decode engines."""
    steady = observation(10.0, queued_requests=queued)
    busy = engines(3, 0) + engines(0, 2, running=40, kv_usage=0.3)
    return replace(steady, engines=busy, completions=completions([50] * 54 + [0] * 6))


def look(*, queued: int, queued_before: int) -> Traffic:
    now = seen(queued=queued)
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
