"""The forecast: ramps are followed, steps have happened, noise is nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.scaling.forecast import Trend, fit_trend, remember_load, season_peak

SCRAPE = 5.0
WINDOW = 300.0
INDEPENDENT = 60.0
HORIZON = 180.0


def seen(load: Callable[[float], float], now: float) -> Trend:
    """The trend of exactly this load over the window before ``now``."""
    starts = [now - WINDOW + SCRAPE * index for index in range(int(WINDOW / SCRAPE))]
    return fit_trend(
        [(at, at + SCRAPE, SCRAPE * load(at + SCRAPE / 2)) for at in starts], grain=0.01, independent=INDEPENDENT
    )


def ramp(at: float) -> float:
    return 1 + 4 * min(1.0, max(0.0, at / 600))


def test_a_steady_load_is_flat_and_stays() -> None:
    trend = seen(lambda _: 3.0, 1000.0)
    assert trend.flat
    assert trend.forecast(1180.0) == pytest.approx(3.0)


def test_a_ramp_is_followed_to_the_horizon() -> None:
    trend = seen(ramp, 400.0)
    assert trend.step_at is None
    assert trend.peak(400.0, 400.0 + HORIZON, quantile=0.5) == pytest.approx(ramp(400.0 + HORIZON), rel=0.05)


def test_a_ramp_that_has_ended_is_not_followed_for_long() -> None:
    trend = seen(ramp, 600.0 + 150.0)
    assert trend.peak(750.0, 750.0 + HORIZON, quantile=0.5) <= 1.2 * ramp(750.0)


@pytest.mark.parametrize("since", [15.0, 30.0, 60.0, 120.0, 200.0])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_after_a_step_the_load_is_what_it_is(since: float, factor: float) -> None:
    trend = seen(lambda at: 1.0 if at < 1000.0 else factor, 1000.0 + since)
    assert trend.step_at == pytest.approx(1000.0, abs=INDEPENDENT / 4)
    assert trend.forecast(1000.0 + since + HORIZON) == pytest.approx(factor, rel=0.1)


def test_a_load_rises_or_falls_by_a_line_or_by_a_step() -> None:
    steady = seen(lambda _: 3.0, 1000.0)
    assert not steady.rises
    assert not steady.falls
    for up in (seen(ramp, 400.0), seen(lambda at: 1.0 if at < 900.0 else 4.0, 1000.0)):
        assert up.rises
        assert not up.falls
    for down in (seen(lambda at: ramp(1000.0 - at), 800.0), seen(lambda at: 4.0 if at < 900.0 else 1.0, 1000.0)):
        assert down.falls
        assert not down.rises


def test_the_longer_a_step_has_lasted_the_more_of_it_is_likely_to_last() -> None:
    def rise(since: float) -> float:
        trend = seen(lambda at: 1.0 if at < 1000.0 else 4.0, 1000.0 + since)
        lasting = trend.lasting(1000.0 + since, seconds=90.0)
        return (lasting.level - lasting.before) / (trend.level - trend.before)

    assert rise(30.0) == pytest.approx(0.25, abs=0.05)
    assert rise(90.0) == pytest.approx(0.5, abs=0.05)
    assert rise(240.0) == pytest.approx(240 / 330, abs=0.05)


def test_a_load_without_a_step_lasts_as_it_is() -> None:
    trend = seen(ramp, 400.0)
    assert trend.lasting(400.0, seconds=90.0) == trend


@pytest.mark.parametrize("now", [1030.0, 1060.0, 1090.0, 1150.0])
def test_a_burst_never_points_higher_than_it_was(now: float) -> None:
    trend = seen(lambda at: 4.0 if 1000 <= at < 1060 else 1.0, now)
    assert trend.peak(now, now + HORIZON, quantile=0.9) <= 4.2


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_steady_traffic_is_no_trend(seed: int) -> None:
    rng = random.Random(seed)
    counts = [sum(rng.random() < 0.5 for _ in range(34)) for _ in range(60)]
    trend = fit_trend(
        [(SCRAPE * index, SCRAPE * (index + 1), count) for index, count in enumerate(counts)],
        grain=1.0,
        independent=INDEPENDENT,
    )
    assert trend.peak(WINDOW, WINDOW + HORIZON, quantile=0.9) <= 1.15 * trend.mean


@given(st.lists(st.floats(0, 1e6), max_size=80), st.floats(0, 10), st.floats(0, 1e4))
def test_no_load_makes_a_forecast_that_is_not_a_number_or_below_zero(
    loads: list[float], grain: float, ahead: float
) -> None:
    trend = fit_trend(
        [(SCRAPE * index, SCRAPE * (index + 1), load) for index, load in enumerate(loads)],
        grain=grain,
        independent=INDEPENDENT,
    )
    end = SCRAPE * len(loads)
    for value in (trend.rate_at(0.0), trend.forecast(end + ahead), trend.peak(end, end + ahead, quantile=0.9)):
        assert 0 <= value < 1e8


def test_zero_traffic_is_forecast_to_stay_zero() -> None:
    assert seen(lambda _: 0.0, 500.0).peak(500.0, 680.0, quantile=0.9) == 0.0


def test_a_season_ago_is_remembered_for_the_horizon() -> None:
    slots = remember_load((), 7.0, now=1000.0, season=86_400.0)
    slots = remember_load(slots, 2.0, now=50_000.0, season=86_400.0)
    later = 1000.0 + 86_400.0
    assert season_peak(slots, now=later - 100.0, horizon=180.0, season=86_400.0) == 7.0
    assert season_peak(slots, now=later - 3000.0, horizon=180.0, season=86_400.0) == 0.0
