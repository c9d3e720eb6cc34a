"""Fitting: known coefficients come back through noise and outliers, and never turn negative."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline.policy.scaling.fit import (
    PrefillPoint,
    StepPoint,
    fit_nonnegative,
    fit_prefill,
    fit_step,
    solve_nonnegative,
    with_prefill,
    with_step,
)
from paceline.policy.scaling.profiles import get_profile

QWEN = get_profile("qwen3-32b-h200-tp2")
BATCHES = (1, 4, 16, 64, 128, 256)
CONTEXTS = (200, 1000, 4000, 8000)


def steps(rng: random.Random, *, noise: float = 0.0, outliers: float = 0.0) -> list[StepPoint]:
    return [
        StepPoint(b, b * c, QWEN.step_seconds(b, b * c) * rng.gauss(1, noise) * (5 if rng.random() < outliers else 1))
        for b in BATCHES
        for c in CONTEXTS
    ]


def prefills(rng: random.Random, *, noise: float = 0.0) -> list[PrefillPoint]:
    return [
        PrefillPoint(n, p, QWEN.prefill_seconds(n, p) * rng.gauss(1, noise))
        for n in (64, 512, 2048, 8000, 30_000)
        for p in (0, 4000)
    ]


def test_points_without_noise_give_the_coefficients_back() -> None:
    rng = random.Random(0)
    prefill, step = fit_prefill(prefills(rng)), fit_step(steps(rng))
    known = QWEN.prefill_base, QWEN.prefill_token, QWEN.prefill_attention
    assert prefill.coefficients == pytest.approx(known, rel=1e-6)
    assert step.coefficients == pytest.approx((QWEN.step_base, QWEN.step_sequence, QWEN.step_context), rel=1e-6)
    assert prefill.median_error < 1e-9
    assert step.outliers == 0


@pytest.mark.parametrize("seed", range(30))
def test_times_are_right_despite_noise_and_one_outlier_in_ten(seed: int) -> None:
    rng = random.Random(seed)
    fitted = with_step(QWEN, fit_step(steps(rng, noise=0.03, outliers=0.1)))
    for batch in BATCHES:
        for context in CONTEXTS:
            expected = QWEN.step_seconds(batch, batch * context)
            assert fitted.step_seconds(batch, batch * context) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("seed", range(30))
def test_prefill_times_are_right_despite_noise(seed: int) -> None:
    fitted = with_prefill(QWEN, fit_prefill(prefills(random.Random(seed), noise=0.03)))
    for tokens in (64, 2048, 30_000):
        assert fitted.prefill_seconds(tokens, 0) == pytest.approx(QWEN.prefill_seconds(tokens, 0), rel=0.1)


@example([(0.0, 7.0, 9.0, 0.015625), (0.0, 7.0, 9.0, 0.015625), (0.0, 1.625, 2.125, 4.0)])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 10)] * 3, st.floats(1e-3, 10)), min_size=3, max_size=20))
def test_no_coefficient_is_ever_negative(points: list[tuple[float, float, float, float]]) -> None:
    fit = fit_nonnegative([point[:3] for point in points], [point[3] for point in points])
    assert min(fit.coefficients) >= 0
    assert len(fit.errors) == len(fit.weights) == len(points)


def test_an_outlier_is_named_and_does_not_pull() -> None:
    points = steps(random.Random(1), noise=0.01)
    points[5] = points[5]._replace(seconds=points[5].seconds * 20)
    fit = fit_step(points)
    assert fit.weights[5] < 0.1
    assert fit.outliers >= 1
    assert fit.coefficients[0] == pytest.approx(QWEN.step_base, rel=0.05)


def test_what_the_points_do_not_tell_apart_stays_where_the_prior_is() -> None:
    at_one_load = [StepPoint(32, 32_000, 1.2 * QWEN.step_seconds(32, 32_000))] * 10
    fit = fit_step(at_one_load, prior=QWEN, prior_weight=1.0)
    for found, known in zip(fit.coefficients, (QWEN.step_base, QWEN.step_sequence, QWEN.step_context), strict=True):
        assert 0.95 * known < found < 1.4 * known
    assert fit.median_error < 0.05


def test_too_few_points_are_refused_unless_there_is_a_prior() -> None:
    two = steps(random.Random(0))[:2]
    with pytest.raises(ValueError, match="3 coefficients can't be told from 2 points"):
        fit_step(two)
    assert fit_step(two, prior=QWEN, prior_weight=1.0).coefficients[0] == pytest.approx(QWEN.step_base)
    assert fit_step([], prior=QWEN, prior_weight=1.0).coefficients[0] == pytest.approx(QWEN.step_base)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        fit_step([*steps(random.Random(0)), StepPoint(1, 1, seconds)])


def test_the_solver_finds_the_corner_where_a_coefficient_is_zero() -> None:
    # Without the bound the minimum is at (2, -1); with it, the best on the axis is 1.5.
    assert solve_nonnegative([[2.0, 1.0], [1.0, 2.0]], [3.0, 0.0]) == pytest.approx([1.5, 0.0])
    assert solve_nonnegative([[2.0, 0.0], [0.0, 4.0]], [2.0, 4.0]) == pytest.approx([1.0, 1.0])
