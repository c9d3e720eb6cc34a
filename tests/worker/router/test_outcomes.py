"""What the router counts of ended requests for the planner."""

from __future__ import annotations

from paceline.api.wire import Objective
from paceline_worker.router.outcomes import Outcomes
from tests.series import collected


def samples(outcomes: Outcomes) -> dict[tuple[str, ...], float]:
    return collected(outcomes, "paceline_router_")


def outcomes() -> Outcomes:
    return Outcomes(Objective(ttft_milliseconds=2000, itl_milliseconds=50))


def test_a_stream_is_judged_by_the_common_objective_unless_it_has_its_own() -> None:
    seen = outcomes()
    assert seen.begun(2.0, None)
    assert not seen.begun(2.1, None)
    assert seen.begun(9.0, 10.0)
    found = samples(seen)
    assert (found["first_tokens_total", "met"], found["first_tokens_total", "missed"]) == (2, 1)


def test_an_ended_stream_counts_under_both_limits_and_a_single_token_has_no_gap_to_miss() -> None:
    seen = outcomes()
    seen.ended(ttft_met=True, itl=0.04)
    seen.ended(ttft_met=True, itl=0.06)
    seen.ended(ttft_met=False, itl=None)
    found = samples(seen)
    assert found["objective_total", "met", "met"] == 1
    assert found["objective_total", "met", "missed"] == 1
    assert found["objective_total", "missed", "met"] == 1


def test_a_refused_request_misses_both() -> None:
    seen = outcomes()
    seen.refused()
    found = samples(seen)
    assert found["first_tokens_total", "missed"] == 1
    assert found["objective_total", "missed", "missed"] == 1


def test_answers_are_counted_by_the_bucket_of_their_prompt() -> None:
    seen = outcomes()
    seen.answered(16, 100)
    seen.answered(17, 10)
    seen.answered(20, 30)
    seen.answered(10**9, 5)
    found = samples(seen)
    assert [found[f"{name}_total", "16"] for name in ("answers", "answer_prompt_tokens", "answer_tokens")] == [
        1,
        16,
        100,
    ]
    assert [found[f"{name}_total", "23"] for name in ("answers", "answer_prompt_tokens", "answer_tokens")] == [
        2,
        37,
        40,
    ]
    assert found["answers_total", "+Inf"] == 1


def test_a_whole_answer_says_itself_how_long_it_was_and_garbage_counts_for_nothing() -> None:
    seen = outcomes()
    seen.answered_whole(100, b'{"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 7}}')
    seen.answered_whole(100, b'{"choices": []}')
    seen.answered_whole(100, b"{nonsense}")
    assert samples(seen)["answer_tokens_total", "128"] == 7
