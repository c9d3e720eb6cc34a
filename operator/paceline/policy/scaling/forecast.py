"""What the load will be when a change takes effect: the larger of a trend and of the same time a season ago.

The trend is a straight line through the arrival rate of the demand window, by least squares. Its slope is shrunk by its
own significance (t² − 4)/t², the positive part of a James-Stein estimator, so that the noise of steady traffic asks
for nothing while a ramp is followed in full; the peak quantile is taken over the error of the extrapolation. Only
the rate is extrapolated: what a request costs is far noisier, and the replay takes it as it comes.

Zero traffic is forecast to stay zero, and nothing here is ever NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from paceline.policy.scaling.observation import MAX_SLOTS, ArrivalInterval, SeasonSlot

MAX_FACTOR: Final = 4.0
"""The line is not followed further than this from the mean: through a burst it points anywhere."""
MIN_INTERVALS: Final = 6
SIGNIFICANT_T_SQUARED: Final = 4.0
"""Two standard errors."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through the arrival rate."""

    mean: float
    """Requests a second over the window."""
    middle: float
    """Time at which the line passes the mean."""
    slope: float
    """Requests a second, a second, after shrinking."""
    trust: float
    """0 to 1: how much of the measured slope was kept."""
    slope_error: float
    """Standard error of the measured slope."""

    def rate_at(self, at: float) -> float:
        """The line, but not out of [mean / 4, 4 · mean]."""
        return min(max(self.mean + self.slope * (at - self.middle), self.mean / MAX_FACTOR), self.mean * MAX_FACTOR)

    def peak(self, now: float, until: float, *, quantile: float) -> float:
        """That quantile of the largest rate between ``now`` and ``until``."""
        error = self.trust * max(0.0, NormalDist().inv_cdf(quantile)) * self.slope_error * abs(until - self.middle)
        return max(self.rate_at(now), self.rate_at(until) + error)


def fit_trend(intervals: Sequence[ArrivalInterval]) -> Trend:
    """Least squares over intervals, weighted by their length. Too few of them, or no traffic: a flat line."""
    points = [
        ((one.start + one.end) / 2, sum(cell.count for cell in one.cells), one.end - one.start)
        for one in intervals
        if one.end > one.start
    ]
    seconds = math.fsum(length for _, _, length in points)
    total = sum(count for _, count, _ in points)
    mean = total / seconds if seconds else 0.0
    middle = math.fsum(at * length for at, _, length in points) / seconds if seconds else 0.0
    flat = Trend(mean, middle, 0.0, 0.0, 0.0)
    if len(points) < MIN_INTERVALS or mean == 0:
        return flat
    spread = math.fsum(length * (at - middle) ** 2 for at, _, length in points)
    if spread <= 0:
        return flat
    slope = math.fsum((count - mean * length) * (at - middle) for at, count, length in points) / spread
    residual = math.fsum(
        (count - length * (mean + slope * (at - middle))) ** 2 / length for at, count, length in points
    ) / (len(points) - 2)
    # Arrivals are never steadier than a Poisson process for long: a lucky window must not make a slope significant.
    error = math.sqrt(max(residual, mean) / spread)
    t_squared = (slope / error) ** 2
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
