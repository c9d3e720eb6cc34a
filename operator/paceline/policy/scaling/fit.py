"""Coefficients from measured points: non-negative least squares on relative errors that outliers can't pull away.

``paceline calibrate`` fits the points of a file or of an endpoint, :mod:`~paceline.policy.scaling.online` those of a
running engine, and the report on measured latencies the efficiencies of whole families. The problems are small (a few
coefficients), so plain Python solves the normal equations; nothing heavy is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul, sub
from typing import Final, NamedTuple

from paceline.policy.quantiles import interpolated
from paceline.policy.scaling.perfmodel import EngineProfile

ROUNDS: Final = 12
"""Most rounds of re-weighting."""
SETTLED: Final = 0.01
"""No weight moved by more than this: further rounds would change nothing that matters."""
HUBER: Final = 1.5
"""Errors beyond this many times the typical one count less: efficient on clean data, bounded influence on the rest."""
LEAST_SCALE: Final = 0.01
"""A typical error below this is not believed: with as many points as coefficients it would be 0."""
OUTLIER_WEIGHT: Final = 0.5
"""A point that counts for less than this is called an outlier."""
_MAD: Final = 1.4826
"""From the median absolute error to the standard deviation of a normal distribution."""


class PrefillPoint(NamedTuple):
    """One measured prefill on an engine that did nothing else."""

    new_tokens: int
    cached_tokens: int
    seconds: float


class StepPoint(NamedTuple):
    """One measured decode step, or the mean of many alike."""

    sequences: float
    context_tokens: float
    """Of all sequences together."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found, and how well it describes the points."""

    coefficients: tuple[float, ...]
    errors: tuple[float, ...]
    """Relative error at each point: prediction / target − 1."""
    weights: tuple[float, ...]
    """How much each point counted in the end, 0 to 1."""

    @property
    def median_error(self) -> float:
        """Median absolute relative error, outliers too."""
        return interpolated([abs(error) for error in self.errors], 0.5)

    @property
    def p90_error(self) -> float:
        """90th percentile of the absolute relative error, outliers too."""
        return interpolated([abs(error) for error in self.errors], 0.9)

    @property
    def outliers(self) -> int:
        """Points that hardly counted."""
        return sum(weight < OUTLIER_WEIGHT for weight in self.weights)


def fit_prefill(
    points: Sequence[PrefillPoint], *, prior: EngineProfile | None = None, prior_weight: float = 0.0
) -> Fit:
    """(a, b, c) of ``prefill(n, p) = a + b·n + c·n·(p + n/2)``. See :func:`fit_nonnegative` for the rest."""
    rows = [(1.0, float(n), n * (p + n / 2)) for n, p, _ in points]
    known = None if prior is None else (prior.prefill_base, prior.prefill_token, prior.prefill_attention)
    return fit_nonnegative(rows, [point.seconds for point in points], prior=known, prior_weight=prior_weight)


def fit_step(points: Sequence[StepPoint], *, prior: EngineProfile | None = None, prior_weight: float = 0.0) -> Fit:
    """(a', b', c') of ``step(B, K) = a' + b'·B + c'·K``. See :func:`fit_nonnegative` for the rest."""
    rows = [(1.0, float(b), float(k)) for b, k, _ in points]
    known = None if prior is None else (prior.step_base, prior.step_sequence, prior.step_context)
    return fit_nonnegative(rows, [point.seconds for point in points], prior=known, prior_weight=prior_weight)


def with_prefill(profile: EngineProfile, fit: Fit) -> EngineProfile:
    """The profile with the prefill coefficients of a fit."""
    base, token, attention = fit.coefficients
    return replace(profile, prefill_base=base, prefill_token=token, prefill_attention=attention)


def with_step(profile: EngineProfile, fit: Fit) -> EngineProfile:
    """The profile with the step coefficients of a fit. Raises ValueError for a step that costs nothing when small."""
    base, sequence, context = fit.coefficients
    return replace(profile, step_base=base, step_sequence=sequence, step_context=context)


def fit_nonnegative(
    rows: Sequence[Sequence[float]],
    targets: Sequence[float],
    *,
    prior: Sequence[float] | None = None,
    prior_weight: float = 0.0,
) -> Fit:
    """Coefficients x ≥ 0 such that ``rows · x`` is close to ``targets``, in proportion to each target.

    Iteratively re-weighted least squares (P. J. Huber, 1964) with weights that fall with the logarithm of the error,
    in units of its median. ``prior`` draws each coefficient towards a known value: ``prior_weight`` is how many points
    say so; what no point tells apart stays where the prior is. Raises ValueError for fewer points than coefficients
    without a prior, and for targets that aren't positive.
    """
    if len(rows) != len(targets):
        raise ValueError(f"{len(rows)} rows, but {len(targets)} targets")
    size = len(prior) if prior is not None else len(rows[0]) if rows else 0
    if not prior_weight and len(rows) < max(1, size):
        raise ValueError(f"{size} coefficients can't be told from {len(rows)} points")
    if not all(target > 0 and math.isfinite(target) for target in targets):
        raise ValueError("every target must be positive and finite")
    # Columns in units of the prior, or of their own size: the equations are then well scaled whatever the units are.
    if prior is None:
        units = [1 / (math.sqrt(math.fsum(x * x for x in column)) or 1.0) for column in zip(*rows, strict=True)]
    else:
        units = [max(value, 1e-12) for value in prior]
    columns = [[row[j] * units[j] / target for row, target in zip(rows, targets, strict=True)] for j in range(size)]
    weights = [1.0] * len(rows)
    counts = list(weights)
    found = [1.0] * size
    ratios: list[float] = []
    for _ in range(ROUNDS):
        matrix, vector = _normal_equations(columns, counts)
        for j in range(size if prior_weight else 0):
            matrix[j][j] += prior_weight
            vector[j] += prior_weight
        found = solve_nonnegative(matrix, vector)
        ratios = [0.0] * len(rows)
        for column, factor in zip(columns, found, strict=True):
            if factor:
                ratios = [ratio + factor * value for ratio, value in zip(ratios, column, strict=True)]
        logs = [abs(math.log(max(ratio, 1e-3))) for ratio in ratios]
        typical = max(LEAST_SCALE, HUBER * _MAD * interpolated(logs, 0.5))
        before, weights = weights, [min(1.0, typical / log) if log > 0 else 1.0 for log in logs]
        # Errors relative to the target alone would favour predictions that are too small.
        counts = [weight / max(ratio, 0.2) for weight, ratio in zip(weights, ratios, strict=True)]
        if max(map(abs, map(sub, weights, before)), default=0.0) < SETTLED:
            break
    return Fit(
        tuple(map(mul, found, units)),
        tuple(ratio - 1 for ratio in ratios),
        tuple(weights),
    )


def _normal_equations(
    columns: Sequence[Sequence[float]], counts: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    size = len(columns)
    matrix = [[0.0] * size for _ in range(size)]
    vector = []
    for i, column in enumerate(columns):
        weighted = list(map(mul, column, counts))
        vector.append(sum(weighted))
        for j in range(i, size):
            matrix[i][j] = matrix[j][i] = sum(map(mul, weighted, columns[j]))
    return matrix, vector


def solve_nonnegative(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    """The x ≥ 0 that minimises ``x·A·x/2 − b·x`` for a symmetric, positive semi-definite A.

    The active set method of C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974), chapter 23.
    """
    size = len(vector)
    found = [0.0] * size
    free: list[int] = []
    slack = 1e-10 * max((abs(value) for value in vector), default=0.0)
    for _ in range(3 * size):
        pull = [vector[i] - math.fsum(map(mul, matrix[i], found)) for i in range(size)]
        bound = [i for i in range(size) if i not in free and matrix[i][i] > 0 and pull[i] > slack]
        if not bound:
            break
        free.append(max(bound, key=lambda i: pull[i]))
        while free:
            tried = _solve([[matrix[i][j] for j in free] for i in free], [vector[i] for i in free])
            below = [(i, value) for i, value in zip(free, tried, strict=True) if value <= 0]
            if not below:
                for i, value in zip(free, tried, strict=True):
                    found[i] = value
                break
            share = min(found[i] / (found[i] - value) if found[i] else 0.0 for i, value in below)
            for i, value in zip(free, tried, strict=True):
                found[i] += share * (value - found[i])
            smallest = min(free, key=lambda i: found[i])
            found[smallest] = 0.0
            free = [i for i in free if found[i] > 0]
            for i in range(size):
                found[i] = found[i] if i in free else 0.0
    return found


def _solve(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """Gauss with pivots. A direction that the equations don't determine is left at 0."""
    size = len(vector)
    rows = [[*line, value] for line, value in zip(matrix, vector, strict=True)]
    floor = 1e-12 * max(abs(matrix[i][i]) for i in range(size))
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) <= floor:
            continue
        for r in range(i + 1, size):
            factor = rows[r][i] / rows[i][i]
            for c in range(i, size + 1):
                rows[r][c] -= factor * rows[i][c]
    found = [0.0] * size
    for i in reversed(range(size)):
        if abs(rows[i][i]) > floor:
            found[i] = (rows[i][size] - math.fsum(map(mul, rows[i][i + 1 : size], found[i + 1 :]))) / rows[i][i]
    return found
