"""Which roles engines change to, and how it is told: what waits for a moment moves nobody."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.observation import Counts, PolicyState
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.words import plain_words
from tests.policy.scaling.scenes import MODELS, observation, settings

LIMITS = settings(gpu_budget=8)


def decided(rate: float, *, prefill: int, decode: int, waiting: float) -> Decision:
    """The third of three decisions on the same, so that what engines could do without is known."""
    state, decisions = PolicyState(), []
    for seconds in (270.0, 285.0, 300.0):
        seen = observation(rate, seconds=seconds, prefill=prefill, decode=decode, queued_seconds=waiting)
        decision, state = plan(seen, state, LIMITS, MODELS)
        decisions.append(decision)
    return decisions[-1]


def test_a_queue_that_the_engines_do_in_their_idle_time_changes_no_role() -> None:
    for waiting in (0.0, 0.1, 1.0, 5.0):
        assert not decided(2.0, prefill=1, decode=3, waiting=waiting).flips


def test_a_queue_that_they_can_not_catch_up_with_does() -> None:
    decision = decided(2.0, prefill=1, decode=3, waiting=60.0)
    assert [flip.after for flip in decision.flips] == [Role.PREFILL]


def test_the_aim_of_a_change_of_roles_is_what_it_leads_to() -> None:
    decision = decided(2.0, prefill=1, decode=3, waiting=60.0)
    assert decision.starts == ()
    assert decision.drains == ()
    assert decision.roles == Counts(prefill=2, decode=2)
    assert plain_words(decision)[0].endswith("; the aim is 2 prefill and 2 decode, 1 prefill and 3 decode now.")


def test_one_engine_is_an_engine() -> None:
    words = " ".join(plain_words(decided(2.0, prefill=1, decode=3, waiting=0.0)))
    assert "1 decode engine for" in words
    assert "1 decode engines" not in words
    assert "1 prefill engines" not in words


def test_a_budget_that_takes_engines_takes_them_from_the_role_that_has_more_than_its_share() -> None:
    seen = observation(20.0, prefill=2, decode=1)
    decision, _ = plan(seen, PolicyState(), settings(gpu_budget=4), MODELS)
    assert [drain.role for drain in decision.drains] == [Role.PREFILL]
    assert decision.flips == ()


def test_a_change_of_roles_is_told_with_the_need_that_it_goes_by() -> None:
    decision = decided(2.0, prefill=1, decode=3, waiting=60.0)
    assert decision.explanation.near.prefill > 1
    near = decision.explanation.near
    told = f"Roles go by what comes now, waits and runs, which wants {near.prefill} prefill and {near.decode} decode."
    assert told in plain_words(decision)
    unchanged = decided(2.0, prefill=1, decode=3, waiting=0.0)
    assert not any(words.startswith("Roles go by") for words in plain_words(unchanged))


def test_who_waits_for_a_place_among_streams_is_told_and_is_not_taken_for_prefill_work() -> None:
    held = observation(2.0, prefill=1, decode=3, queued_requests=12, queued_decode=12)
    words = " ".join(plain_words(plan(held, PolicyState(), LIMITS, MODELS)[0]))
    assert "12 requests wait for a place among the streams of the decode engines." in words
    assert "prefill work" not in words
