"""The engine model, fitted again from an engine's own metrics while it serves.

Coefficients from a data sheet, a table or yesterday's calibration are wrong by some tens of percent on the engine at
hand, and drift with its version. Whoever scrapes engines hands the increments of vLLM's metrics in, one interval at a
time, and asks for a profile now and then. Until the engine has been seen at work over a wide enough range the answer is
the profile that one began with, and the reason says what is missing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeVar

from paceline.policy.quantiles import interpolated
from paceline.policy.scaling.fit import (
    Fit,
    PrefillPoint,
    StepPoint,
    fit_prefill,
    fit_step,
    with_prefill,
    with_step,
)
from paceline.policy.scaling.perfmodel import EngineProfile

POINTS_A_CELL: Final = 8
"""Newest points kept for each kind of load: half an octave of batch and of context, or of prompt and of prefix."""
MAX_CELLS: Final = 256
"""Of each of the two models. Engines see a few dozen; the least recently fed goes first."""
LEAST_POINTS: Final = 12
LEAST_SPREAD: Final = 2.0
"""Largest load over smallest load that must have been seen: a line needs two ends."""
PRIOR_WEIGHT: Final = 0.2
"""In points: how firmly the profile that one began with holds what the load does not tell apart."""
MAX_ERROR: Final = 0.25
"""A fit whose median error is larger describes something else, such as an engine that shares its accelerator."""
MAX_PREFILL_SHARE: Final = 0.02
"""Share of an interval's computed tokens that may be prompts for its steps to count as decode steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInterval:
    """What one engine's metrics say of the time between two scrapes. Counters are increments."""

    running: float
    """``vllm:num_requests_running``, mean of both ends."""
    running_change: float
    """Its absolute change from one end to the other."""
    context_tokens: float
    """``vllm:kv_cache_usage_perc`` · KV capacity, mean of both ends."""
    prompt_tokens: float
    """``vllm:prompt_tokens_total`` less those found in a cache."""
    cached_tokens: float
    generated_tokens: float
    """``vllm:generation_tokens_total``."""
    inter_token_count: float
    """``vllm:inter_token_latency_seconds_count``."""
    inter_token_seconds: float
    """``vllm:inter_token_latency_seconds_sum``."""
    prefills: float
    """``vllm:request_prefill_time_seconds_count``."""
    prefill_seconds: float
    """``vllm:request_prefill_time_seconds_sum``."""

    def step_point(self) -> StepPoint | None:
        """The mean decode step, if hardly anything else went on and the batch stayed about the same."""
        computed = self.prompt_tokens + self.generated_tokens
        if self.inter_token_count < 1 or self.running < 1 or not math.isfinite(self.inter_token_seconds):
            return None
        steady = self.running_change <= max(1.0, self.running / 4)
        if not steady or self.prompt_tokens > MAX_PREFILL_SHARE * computed or self.inter_token_seconds <= 0:
            return None
        return StepPoint(self.running, self.context_tokens, self.inter_token_seconds / self.inter_token_count)

    def prefill_point(self) -> PrefillPoint | None:
        """The prefill, if there was exactly one and nothing was decoded along with it."""
        alone = self.prefills == 1 and self.running <= 1
        if not alone or self.prompt_tokens < 1 or not 0 < self.prefill_seconds < math.inf:
            return None
        return PrefillPoint(round(self.prompt_tokens), round(self.cached_tokens), self.prefill_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartQuality:
    """How far one of the two models can be trusted."""

    fitted: bool
    """Whether the coefficients are this engine's own."""
    points: int
    spread: float
    """Largest load over smallest load among the points; 0 of none."""
    median_error: float
    """Of the profile that is given out, at the points; 0 of none."""
    drift: float
    """Median of measured over expected by the profile that one began with; 1 of none."""
    reason: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineModel:
    """The profile to work with, and how far to trust it."""

    profile: EngineProfile
    prefill: PartQuality
    step: PartQuality


_Point = TypeVar("_Point", PrefillPoint, StepPoint)


class OnlineFit:
    """Holds the newest points of each kind of load, so memory is bounded and a rare load isn't pushed out by a common
    one. Newer points replace older ones of their kind: that is how drift is followed.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self._start = profile
        self._steps: dict[tuple[int, int], deque[StepPoint]] = {}
        self._prefills: dict[tuple[int, int], deque[PrefillPoint]] = {}

    @property
    def size(self) -> int:
        """Points held."""
        return sum(map(len, self._steps.values())) + sum(map(len, self._prefills.values()))

    def observe(self, interval: EngineInterval) -> None:
        """Take what one interval teaches, if anything."""
        step, prefill = interval.step_point(), interval.prefill_point()
        if step is not None:
            self.observe_step(step)
        if prefill is not None:
            self.observe_prefill(prefill)

    def observe_step(self, point: StepPoint) -> None:
        """A decode step, or the mean of many alike. What can't be a time is left out."""
        if point.sequences > 0 and 0 < point.seconds < math.inf:
            _keep(self._steps, _cell(point.sequences, point.context_tokens), point)

    def observe_prefill(self, point: PrefillPoint) -> None:
        """A prefill in steps of its own. What can't be a time is left out."""
        if point.new_tokens > 0 and 0 < point.seconds < math.inf:
            _keep(self._prefills, _cell(point.new_tokens, point.cached_tokens), point)

    def model(self) -> OnlineModel:
        """The best profile there is now."""
        start = self._start
        steps = [point for cell in self._steps.values() for point in cell]
        prefills = [point for cell in self._prefills.values() for point in cell]
        profile, prefill = (
            start,
            _too_little("prefill", prefills, [start.prefill_seconds(n, p) for n, p, _ in prefills]),
        )
        if prefill.fitted:
            fit = fit_prefill(prefills, prior=start, prior_weight=PRIOR_WEIGHT)
            prefill = _judged(prefill, fit)
            profile = with_prefill(profile, fit) if prefill.fitted else profile
        step = _too_little("decode", steps, [start.step_seconds(b, k) for b, k, _ in steps])
        if step.fitted:
            fit = fit_step(steps, prior=start, prior_weight=PRIOR_WEIGHT)
            step = _judged(step, fit)
            profile = with_step(profile, fit) if step.fitted and fit.coefficients[0] > 0 else profile
        return OnlineModel(profile=profile, prefill=prefill, step=step)


def _cell(size: float, before: float) -> tuple[int, int]:
    return round(2 * math.log2(max(1.0, size))), round(2 * math.log2(max(1.0, before)))


def _keep(cells: dict[tuple[int, int], deque[_Point]], key: tuple[int, int], point: _Point) -> None:
    cell = cells.pop(key, None)
    if cell is None:
        if len(cells) >= MAX_CELLS:
            del cells[next(iter(cells))]
        cell = deque(maxlen=POINTS_A_CELL)
    cell.append(point)
    # Last in the order of insertion is last to go.
    cells[key] = cell


def _too_little(what: str, points: list[_Point], expected: list[float]) -> PartQuality:
    """``fitted`` says whether there is enough to try."""
    loads = [float(point[0]) for point in points]
    spread = max(loads) / min(loads) if loads else 0.0
    ratios = [point.seconds / seconds for point, seconds in zip(points, expected, strict=True)]
    if len(points) < LEAST_POINTS:
        reason = f"{what}: {len(points)} of {LEAST_POINTS} points seen that are needed for a fit"
    elif spread < LEAST_SPREAD:
        reason = (
            f"{what}: all {len(points)} points are at about the same load; a fit needs a factor of {LEAST_SPREAD:g}"
        )
    else:
        reason = ""
    return PartQuality(
        fitted=not reason,
        points=len(points),
        spread=spread,
        median_error=interpolated([abs(1 / ratio - 1) for ratio in ratios], 0.5),
        drift=interpolated(ratios, 0.5) if ratios else 1.0,
        reason=reason,
    )


def _judged(before: PartQuality, fit: Fit) -> PartQuality:
    good = fit.median_error <= MAX_ERROR
    reason = (
        f"fitted to {before.points} points with a median error of {100 * fit.median_error:.0f}%"
        if good
        else f"the points scatter too much for a fit: median error {100 * fit.median_error:.0f}%"
    )
    return PartQuality(
        fitted=good,
        points=before.points,
        spread=before.spread,
        median_error=fit.median_error if good else before.median_error,
        drift=before.drift,
        reason=reason,
    )
