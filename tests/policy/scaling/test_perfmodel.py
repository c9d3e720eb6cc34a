"""The engine's step times in closed form: additive, monotone, zero for nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import get_profile, known_profiles

QWEN = get_profile("qwen3-32b-h200-tp2")
counts = st.integers(0, 100_000)
batches = st.integers(1, 512)


def test_a_prefill_follows_the_formula_of_the_design() -> None:
    expected_ms = 7.83404 + 0.0465316 * 4000 + 1.703414e-6 * 4000 * (8000 + 2000)
    assert QWEN.prefill_seconds(4000, 8000) * 1e3 == pytest.approx(expected_ms)


def test_a_decode_step_follows_the_formula_of_the_design() -> None:
    assert QWEN.step_seconds(64, 256_000) * 1e3 == pytest.approx(10.6824 + 0.0248906 * 64 + 2.996359e-5 * 256_000)


def test_nothing_to_do_takes_no_time() -> None:
    assert QWEN.prefill_seconds(0, 5000) == QWEN.step_seconds(0, 0) == QWEN.transfer_seconds(0) == 0


@given(new=st.integers(1, 50_000), cached=counts, cut=st.floats(0, 1))
def test_chunks_of_a_prompt_add_up_to_the_whole_prompt(new: int, cached: int, cut: float) -> None:
    first = int(new * cut)
    parts = QWEN.prefill_work(first, cached) + QWEN.prefill_work(new - first, cached + first)
    assert parts == pytest.approx(QWEN.prefill_work(new, cached))


@given(new=st.integers(1, 50_000), sequences=batches, context=counts)
def test_a_mixed_step_costs_more_than_either_part_and_less_than_both_apart(
    new: int, sequences: int, context: int
) -> None:
    mixed = QWEN.mixed_seconds(QWEN.prefill_work(new, 0), sequences, context)
    apart = QWEN.prefill_seconds(new), QWEN.step_seconds(sequences, context)
    assert max(apart) <= mixed <= sum(apart)


@given(steps=st.integers(1, 500), sequences=batches, context=counts)
def test_a_run_of_decode_steps_is_the_sum_of_its_steps(steps: int, sequences: int, context: int) -> None:
    one_by_one = sum(QWEN.step_seconds(sequences, context + i * sequences) for i in range(steps))
    assert QWEN.decode_run_seconds(steps, sequences, context) == pytest.approx(one_by_one)


def test_a_transfer_takes_its_setup_and_its_bytes_over_the_bandwidth() -> None:
    assert QWEN.transfer_seconds(10_000) == pytest.approx(0.005 + 10_000 * 262_144 / 80e9)


@pytest.mark.parametrize("field", ["step_base", "kv_capacity_tokens", "transfer_bandwidth"])
def test_a_profile_without_a_needed_figure_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} of engine profile qwen3-32b-h200-tp2 must be positive"):
        dataclasses.replace(QWEN, **{field: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", known_profiles().values(), ids=known_profiles())
def test_every_known_profile_says_that_it_is_an_estimate_and_why(profile: EngineProfile) -> None:
    assert profile.estimate
    assert len(profile.provenance) > 20
