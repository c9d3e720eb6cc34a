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
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, NamedTuple

from paceline.policy.scaling.observation import MAX_SLOTS, SeasonSlot

MAX_FACTOR: Final = 4.0
"""The line is not followed further than this from the mean: through a burst it points anywhere."""
MIN_INTERVALS: Final = 6
MIN_POINTS: Final = 3
"""Two lie on a line by themselves."""
SIGNIFICANT_T_SQUARED: Final = 4.0
"""Two standard errors."""
SIGNIFICANT_STEP_SQUARED: Final = 9.0
"""Three: the time of the step was chosen to make it large."""
STEP_PARTS: Final = 4
"""Steps are looked for between parts this many times as short as deviations go together."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through a load, or two levels one after the other, whichever fits better."""

    mean: float
    """Load over the window, a second."""
    middle: float = 0.0
    """Time at which the line passes the mean."""
    slope: float = 0.0
    """Load a second, a second, after shrinking. 0 for a step."""
    trust: float = 0.0
    """0 to 1: how much of the measured slope, or step, was kept."""
    slope_error: float = 0.0
    """Standard error of the measured slope."""
    level: float = 0.0
    """Load of the newest part of the window, a second; after the step, if there is one."""
    level_at: float = 0.0
    """Middle of that part."""
    level_error: float = 0.0
    """Standard error of the level."""
    step_at: float | None = None
    """When the load changed its level. None: it did not."""
    before: float = 0.0
    """Load before that, a second."""

    @property
    def flat(self) -> bool:
        """Whether nothing is going on."""
        return not self.slope and self.step_at is None

    @property
    def rises(self) -> bool:
        """Whether the load goes up, or went up."""
        return self.slope > 0 or self.steps_up

    @property
    def falls(self) -> bool:
        """Whether the load goes down, or went down."""
        return self.slope < 0 or (self.step_at is not None and self.level < self.before)

    @property
    def steps_up(self) -> bool:
        """Whether the load has stepped up."""
        return self.step_at is not None and self.level > self.before

    def lasting(self, now: float, *, seconds: float) -> Trend:
        """The same with as much of a step as is likely to last for ``seconds`` more."""
        if self.step_at is None or now <= self.step_at:
            return self
        share = (now - self.step_at) / (now - self.step_at + seconds)
        return replace(
            self,
            trust=self.trust * share,
            level=self.mean + share * (self.level - self.mean),
            before=self.mean + share * (self.before - self.mean),
        )

    def rate_at(self, at: float) -> float:
        """What the load was, or will be if it goes on like that; a line not out of [mean / 4, 4 · mean]."""
        if self.step_at is not None:
            return self.before if at < self.step_at else self.level
        return self._bounded(self._line(at))

    def forecast(self, at: float, *, quantile: float = 0.5) -> float:
        """That quantile of the load at a time to come.

        The line, but no further from the newest level than the slope leads. After a step, the new level.
        """
        if not self.slope:
            return self.rate_at(at)
        line, level = self._line(at), self.level + self.slope * (at - self.level_at)
        if self.slope < 0:
            return self._bounded(max(line, level))
        z = self.trust * max(0.0, NormalDist().inv_cdf(quantile))
        return self._bounded(
            min(line + z * self.slope_error * abs(at - self.middle), level + z * self.level_error),
        )

    def peak(self, now: float, until: float, *, quantile: float) -> float:
        """That quantile of the largest load between ``now`` and ``until``."""
        return max(self.forecast(now), self.forecast(until, quantile=quantile))

    def _line(self, at: float) -> float:
        return self.mean + self.slope * (at - self.middle)

    def _bounded(self, load: float) -> float:
        return min(max(load, self.mean / MAX_FACTOR), self.mean * MAX_FACTOR)


def fit_trend(intervals: Sequence[tuple[float, float, float]], *, grain: float, independent: float = 0.0) -> Trend:
    """Least squares over intervals, each (start, end, load within), weighted by length.

    ``grain``: mean square over mean of what one request adds. Arrivals are never steadier than a Poisson process for
    long, so the noise is taken to be at least that of a compound one, and a lucky window makes no slope significant.

    ``independent``: seconds over which deviations go together. A burst leaves deviations from any line that don't
    change sign for a minute; counted once for every scrape they would make its line look certain.

    Where two levels fit better than a line, what happened was a step, and it has happened: the load is at the new
    level and has no slope. And a rise that has ended does not go on: the slope is at most that of the newer half, give
    or take its own error. Too few intervals, or no load: a flat line.
    """
    points = _points(intervals)
    whole = _line(points)
    if len(points) < MIN_INTERVALS or whole.mean <= 0 or whole.spread <= 0:
        return Trend(whole.mean)
    fine = _merged(points, independent / STEP_PARTS)
    step = _best_step(fine)
    if step is not None and step.squares < _squares(fine, whole):
        return _stepped(step, whole, grain)
    parts = _merged(points, independent)
    noise = max(_noise(points, whole), _noise(parts, whole), whole.mean * grain)
    error = math.sqrt(noise / whole.spread)
    slope = whole.slope
    newer = _line(points[len(points) // 2 :])
    if slope > 0 and newer.spread > 0:
        slope = min(slope, max(0.0, newer.slope + math.sqrt(noise / newer.spread)))
    trust = _trust(whole.slope, error, SIGNIFICANT_T_SQUARED)
    level_at, load, length = parts[0] if parts else points[-1]
    return Trend(
        mean=whole.mean,
        middle=whole.middle,
        slope=slope * trust,
        trust=trust,
        slope_error=error,
        level=load / length,
        level_at=level_at,
        level_error=math.sqrt(max(load / length, whole.mean) * grain / length),
    )


def _stepped(step: _Step, whole: _Line, grain: float) -> Trend:
    """Two levels, drawn towards the mean as far as they may be noise."""
    noise = max(step.noise, whole.mean * grain)
    error = math.sqrt(noise / step.seconds_before + noise / step.seconds_after)
    trust = _trust(step.after - step.before, error, SIGNIFICANT_STEP_SQUARED)
    if not trust:
        return Trend(whole.mean)
    return Trend(
        mean=whole.mean,
        trust=trust,
        level=whole.mean + trust * (step.after - whole.mean),
        before=whole.mean + trust * (step.before - whole.mean),
        step_at=step.at,
    )


def _trust(value: float, error: float, significant: float) -> float:
    """How much of a value is kept: 0 up to ``significant`` for the square of its ratio to its error, then ever more."""
    t_squared = (value / error) ** 2 if error > 0 else 0.0
    return max(0.0, 1 - significant / t_squared) if t_squared > 0 else 0.0


_Point = tuple[float, float, float]
"""(middle, load, length) of an interval."""


class _Line(NamedTuple):
    """Least squares."""

    mean: float
    middle: float
    spread: float
    """Sum of squared distances from the middle, weighted."""
    slope: float


def _points(intervals: Sequence[tuple[float, float, float]]) -> list[_Point]:
    return [((start + end) / 2, load, end - start) for start, end, load in intervals if end > start]


def _line(points: Sequence[_Point]) -> _Line:
    seconds = math.fsum(length for _, _, length in points)
    if not seconds:
        return _Line(0.0, 0.0, 0.0, 0.0)
    mean = math.fsum(load for _, load, _ in points) / seconds
    middle = math.fsum(at * length for at, _, length in points) / seconds
    spread = math.fsum(length * (at - middle) ** 2 for at, _, length in points)
    moment = math.fsum((load - mean * length) * (at - middle) for at, load, length in points)
    return _Line(mean, middle, spread, moment / spread if spread else 0.0)


def _noise(points: Sequence[_Point], line: _Line) -> float:
    """Mean squared deviation from the line, a second."""
    if len(points) < MIN_POINTS:
        return 0.0
    return _squares(points, line) / (len(points) - 2)


class _Step(NamedTuple):
    """The split into two levels that fits best."""

    at: float
    before: float
    after: float
    seconds_before: float
    seconds_after: float
    squares: float
    noise: float


def _best_step(points: Sequence[_Point]) -> _Step | None:
    """``points`` from the newest back, as :func:`_merged` gives them."""
    if len(points) <= MIN_POINTS:
        return None
    points = points[::-1]
    lengths = [length for _, _, length in points]
    total, seconds = math.fsum(load for _, load, _ in points), math.fsum(lengths)
    squares = math.fsum(load * load / length for _, load, length in points)
    best: tuple[float, int, float, float] | None = None
    before = covered = 0.0
    for number, (_, load, length) in enumerate(points[:-1], start=1):
        before, covered = before + load, covered + length
        left = squares - before * before / covered - (total - before) ** 2 / (seconds - covered)
        if best is None or left < best[0]:
            best = (left, number, before, covered)
    if best is None:
        return None
    left, number, before, covered = best
    return _Step(
        at=points[number][0] - lengths[number] / 2,
        before=before / covered,
        after=(total - before) / (seconds - covered),
        seconds_before=covered,
        seconds_after=seconds - covered,
        squares=max(0.0, left),
        noise=max(0.0, left) / (len(points) - 2),
    )


def _squares(points: Sequence[_Point], line: _Line) -> float:
    """Sum of squared deviations from the line, weighted by length."""
    return math.fsum(
        (load - length * (line.mean + line.slope * (at - line.middle))) ** 2 / length for at, load, length in points
    )


def _merged(points: Sequence[_Point], seconds: float) -> list[_Point]:
    """Neighbours put together until each covers ``seconds``, from the newest back."""
    result: list[_Point] = []
    moment = load = length = 0.0
    for at, one, covers in reversed(points):
        moment, load, length = moment + at * covers, load + one, length + covers
        if length >= seconds:
            result.append((moment / length, load, length))
            moment = load = length = 0.0
    return result


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
