"""The online fit: an engine's own times from its own metrics, honest about what it has not seen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from paceline.policy.scaling.fit import PrefillPoint, StepPoint
from paceline.policy.scaling.online import LEAST_POINTS, MAX_CELLS, POINTS_A_CELL, EngineInterval, OnlineFit
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.profiles import get_profile

START = get_profile("qwen3-32b-h200-tp2")
REAL = replace(
    START,
    prefill_base=1.5 * START.prefill_base,
    prefill_token=1.3 * START.prefill_token,
    step_base=1.4 * START.step_base,
    step_sequence=2 * START.step_sequence,
    step_context=1.1 * START.step_context,
)


def interval(**changes: float) -> EngineInterval:
    quiet = {
        "running": 0.0, "running_change": 0.0, "context_tokens": 0.0, "prompt_tokens": 0.0, "cached_tokens": 0.0,
        "generated_tokens": 0.0, "inter_token_count": 0.0, "inter_token_seconds": 0.0, "prefills": 0.0,
        "prefill_seconds": 0.0,
    }  # fmt: skip
    return EngineInterval(**(quiet | changes))


def decoding(batch: int, context: int, engine: EngineProfile = REAL, noise: float = 1.0) -> EngineInterval:
    step = engine.step_seconds(batch, batch * context) * noise
    tokens = 200 * batch
    return interval(
        running=batch, context_tokens=batch * context, generated_tokens=tokens, inter_token_count=tokens,
        inter_token_seconds=tokens * step,
    )  # fmt: skip


def observed(engine: EngineProfile = REAL, *, seed: int = 0) -> OnlineFit:
    rng = random.Random(seed)
    fit = OnlineFit(START)
    for _ in range(4):
        for batch in (2, 8, 24, 64, 160):
            for context in (500, 2000, 6000):
                # One scrape in ten is off by a lot: a pause, a neighbour, a counter read late.
                off = 4.0 if rng.random() < 0.1 else 1.0
                fit.observe(decoding(batch, context, engine, rng.gauss(1, 0.03) * off))
        for tokens in (200, 1000, 5000, 20_000):
            fit.observe_prefill(PrefillPoint(tokens, 0, engine.prefill_seconds(tokens) * rng.gauss(1, 0.03)))
    return fit


def test_an_engine_that_is_slower_than_expected_is_recognised() -> None:
    model = observed().model()
    assert model.step.fitted
    assert model.prefill.fitted
    for batch, context in ((8, 1000), (64, 4000), (128, 2000)):
        expected = REAL.step_seconds(batch, batch * context)
        assert model.profile.step_seconds(batch, batch * context) == pytest.approx(expected, rel=0.08)
    assert model.profile.prefill_seconds(8000) == pytest.approx(REAL.prefill_seconds(8000), rel=0.08)
    assert 1.1 < model.step.drift < 1.6
    assert "fitted to 60 points" in model.step.reason


def test_without_observations_the_profile_stays_and_the_reason_says_why() -> None:
    model = OnlineFit(START).model()
    assert model.profile == START
    assert not model.step.fitted
    assert model.step.reason == f"decode: 0 of {LEAST_POINTS} points seen that are needed for a fit"


def test_one_load_seen_often_is_not_enough_for_a_line() -> None:
    fit = OnlineFit(START)
    for batch in (30, 31, 32, 33):
        for context in (100, 1000, 4000):
            fit.observe(decoding(batch, context))
    model = fit.model()
    assert not model.step.fitted
    assert "at about the same load" in model.step.reason
    assert model.step.drift > 1.1


def test_points_that_fit_no_line_leave_the_profile_as_it_was() -> None:
    rng = random.Random(3)
    fit = OnlineFit(START)
    for batch in (1, 4, 16, 64, 256):
        for _ in range(8):
            fit.observe(decoding(batch, 1000, noise=rng.choice((0.1, 0.3, 1.0, 3.0, 10.0))))
    model = fit.model()
    assert not model.step.fitted
    assert model.profile == START
    assert "scatter too much" in model.step.reason


def test_an_engine_that_changes_is_followed() -> None:
    fit = observed(START)
    slower = replace(START, step_base=2 * START.step_base)
    for _ in range(POINTS_A_CELL):
        for batch in (2, 8, 24, 64, 160):
            for context in (500, 2000, 6000):
                fit.observe(decoding(batch, context, slower))
    assert fit.model().profile.step_seconds(2, 1000) == pytest.approx(slower.step_seconds(2, 1000), rel=0.05)


def test_memory_is_bounded_and_a_rare_load_is_not_pushed_out_by_a_common_one() -> None:
    fit = OnlineFit(START)
    fit.observe_step(StepPoint(200, 400_000, REAL.step_seconds(200, 400_000)))
    for _ in range(1000):
        fit.observe_step(StepPoint(4, 4000, REAL.step_seconds(4, 4000)))
    assert fit.size == 1 + POINTS_A_CELL
    for size in range(1, 3000):
        fit.observe_prefill(PrefillPoint(size, 37 * size * size, 1.0))
        fit.observe_step(StepPoint(size, 11 * size**3, 1.0))
    assert fit.size <= 2 * MAX_CELLS * POINTS_A_CELL


@pytest.mark.parametrize(
    "mixed",
    [
        {"prompt_tokens": 5000.0},
        {"running_change": 20.0},
        {"inter_token_count": 0.0},
        {"inter_token_seconds": float("nan")},
        {"running": 0.0},
    ],
)
def test_an_interval_in_which_more_went_on_than_decoding_teaches_nothing_about_steps(mixed: dict[str, float]) -> None:
    clean = decoding(32, 1000)
    assert clean.step_point() is not None
    assert replace(clean, **mixed).step_point() is None


def test_a_prefill_counts_only_if_it_was_alone() -> None:
    alone = interval(running=0.5, prompt_tokens=3000, cached_tokens=1024, prefills=1, prefill_seconds=0.2)
    assert alone.prefill_point() == PrefillPoint(3000, 1024, 0.2)
    assert replace(alone, prefills=2).prefill_point() is None
    assert replace(alone, running=3).prefill_point() is None
    assert replace(alone, prefill_seconds=0.0).prefill_point() is None
