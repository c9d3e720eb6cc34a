"""What the load will be when a change takes effect: the larger of a trend and of the same time a season ago.

The trend is a straight line through the load of the demand window, by least squares. Its slope is shrunk by its own
significance, (t² − 4)/t², the positive part of a James-Stein estimator, so that the noise of steady traffic asks for
nothing while a ramp is followed in full; the peak quantile is taken over the error of the extrapolation. Prefill and
decode have lines of their own: when the mix shifts, one falls while the other rises.

Zero traffic is forecast to stay zero, and nothing here is ever NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from paceline.policy.scaling.observation import MAX_SLOTS, SeasonSlot

MAX_FACTOR: Final = 4.0
"""The line is not followed further than this from the mean: through a burst it points anywhere."""
MIN_INTERVALS: Final = 6
SIGNIFICANT_T_SQUARED: Final = 4.0
"""Two standard errors."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through a load."""

    mean: float
    """Load over the window, a second."""
    middle: float
    """Time at which the line passes the mean."""
    slope: float
    """Load a second, a second, after shrinking."""
    trust: float
    """0 to 1: how much of the measured slope was kept."""
    slope_error: float
    """Standard error of the measured slope."""

    def rate_at(self, at: float) -> float:
        """The line, but not out of [mean / 4, 4 · mean]."""
        return min(max(self.mean + self.slope * (at - self.middle), self.mean / MAX_FACTOR), self.mean * MAX_FACTOR)

    def peak(self, now: float, until: float, *, quantile: float) -> float:
        """That quantile of the largest load between ``now`` and ``until``."""
        error = self.trust * max(0.0, NormalDist().inv_cdf(quantile)) * self.slope_error * abs(until - self.middle)
        return max(self.rate_at(now), self.rate_at(until) + error)


def fit_trend(intervals: Sequence[tuple[float, float, float]], *, grain: float) -> Trend:
    """Least squares over intervals, each (start, end, load within), weighted by length.

    ``grain``: mean square over mean of what one request adds. Arrivals are never steadier than a Poisson process for
    long, so the noise is taken to be at least that of a compound one, and a lucky window makes no slope significant.
    Too few intervals, or no load: a flat line.
    """
    points = [((start + end) / 2, load, end - start) for start, end, load in intervals if end > start]
    seconds = math.fsum(length for _, _, length in points)
    total = math.fsum(load for _, load, _ in points)
    mean = total / seconds if seconds else 0.0
    middle = math.fsum(at * length for at, _, length in points) / seconds if seconds else 0.0
    spread = math.fsum(length * (at - middle) ** 2 for at, _, length in points)
    if len(points) < MIN_INTERVALS or mean <= 0 or spread <= 0:
        return Trend(mean, middle, 0.0, 0.0, 0.0)
    slope = math.fsum((load - mean * length) * (at - middle) for at, load, length in points) / spread
    residual = math.fsum(
        (load - length * (mean + slope * (at - middle))) ** 2 / length for at, load, length in points
    ) / (len(points) - 2)
    error = math.sqrt(max(residual, mean * grain) / spread)
    t_squared = (slope / error) ** 2 if error > 0 else 0.0
    trust = max(0.0, 1 - SIGNIFICANT_T_SQUARED / t_squared) if t_squared > 0 else 0.0
    return Trend(mean, middle, slope * trust, trust, error)


def season_peak(slots: Sequence[SeasonSlot], *, now: float, horizon: float, season: float) -> float:
    """Largest load that was seen one season ago, from now to the horizon; 0 when that was not seen."""
    begin = now - season
    width = slot_seconds(season)
    return max((slot.peak for slot in slots if slot.at + width > begin and slot.at <= begin + horizon), default=0.0)


def remember_load(slots: Sequence[SeasonSlot], load: float, *, now: float, season: float) -> tuple[SeasonSlot, ...]:
    """``slots`` with the load of this moment in the present one; what is older than a season is forgotten."""
    width = slot_seconds(season)
    at = math.floor(now / width) * width
    kept = [slot for slot in slots if slot.at >= at - season - width]
    if kept and kept[-1].at == at:
        kept[-1] = SeasonSlot(at=at, peak=max(kept[-1].peak, load))
    else:
        kept.append(SeasonSlot(at=at, peak=load))
    return tuple(kept[-MAX_SLOTS:])


def slot_seconds(season: float) -> float:
    """Length of one slot: a minute or more, so that a season and a little fit into what is remembered."""
    return max(60.0, season / (MAX_SLOTS - 8))
