"""Engines with streams compute prompts too: the streams come out at their objective, however many prompts there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.routing.pacing import MOST_OWED, MOST_OWED_SECONDS, MOST_REST, SHARED, owed_until, rest_seconds

PROMPTS = st.floats(0.01, 20)
STEPS = st.floats(0.001, 0.2)


@given(PROMPTS, st.floats(0.001, 0.022))
def test_prompt_and_rest_together_give_the_streams_their_objective(prompt: float, step: float) -> None:
    rest = rest_seconds(prompt, step_seconds=step, itl_seconds=0.025)
    tokens = rest / step
    assert (prompt + rest) / tokens == pytest.approx(0.025)


@given(PROMPTS, STEPS)
def test_no_batch_makes_an_engine_rest_for_ever(prompt: float, step: float) -> None:
    assert 0 < rest_seconds(prompt, step_seconds=step, itl_seconds=0.025) <= MOST_REST * prompt * (1 + 1e-9)


@given(PROMPTS, STEPS, st.floats(1, 3))
def test_a_smaller_batch_never_rests_longer(prompt: float, step: float, factor: float) -> None:
    small, large = (rest_seconds(prompt, step_seconds=one, itl_seconds=0.025) for one in (step, step * factor))
    assert small <= large * (1 + 1e-9)


SHORT_PROMPTS = st.floats(0.0001, 0.005)


@given(SHORT_PROMPTS, st.floats(0.001, 0.024))
def test_short_prompts_at_the_pace_of_what_is_owed_leave_streams_a_part_of_their_time(
    prompt: float, step: float
) -> None:
    pause = owed_until(100.0, 0.0, prompt, step_seconds=step, itl_seconds=0.025) - 100.0
    tokens = (pause - prompt) / step
    assert pause / tokens == pytest.approx(step + SHARED * (0.025 - step))


@given(SHORT_PROMPTS, st.floats(0.025, 1))
def test_streams_that_have_no_time_left_get_hardly_a_prompt(prompt: float, step: float) -> None:
    pause = owed_until(0.0, 0.0, prompt, step_seconds=step, itl_seconds=0.025)
    assert pause == pytest.approx(min((1 + MOST_OWED) * prompt, MOST_OWED_SECONDS))


@given(st.floats(0, 1e6), st.lists(SHORT_PROMPTS, max_size=300))
def test_what_is_owed_adds_up_and_never_exceeds_its_bound(now: float, prompts: list[float]) -> None:
    owed = 0.0
    for prompt in prompts:
        more = owed_until(now, owed, prompt, step_seconds=0.015, itl_seconds=0.025)
        assert max(now, owed) < more <= now + MOST_OWED_SECONDS or owed == now + MOST_OWED_SECONDS == more
        owed = more
