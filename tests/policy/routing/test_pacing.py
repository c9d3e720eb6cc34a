"""An engine between two roles: its streams come out at their objective, however long the prompts it computes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.routing.pacing import MOST_REST, rest_seconds

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
