"""How sure a recommendation is: what other windows, other seeds and slower engines would have said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from paceline.api.v1alpha1 import PoolMode
from paceline.planning.fleets import Fleet, FleetSearch, Ground, simulate, slower
from paceline.simulator.policies.base import settled_counts
from paceline.simulator.policies.planner import PlannerPolicy
from paceline.simulator.report import attainment
from paceline.simulator.settings import SimSettings

WINDOWS: Final = 20
"""Pieces of the trace that are drawn with replacement: what came in one of them hangs together."""
DRAWS: Final = 1000
SEEDS: Final = 2
"""Further seeds with which a fleet that scales is simulated."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """Of the recommended fleet."""

    low: float
    high: float
    """90% of the draws attain between these shares."""
    holds: float
    """Share of the draws that meet the target."""
    seeds: tuple[tuple[float, float], ...]
    """(attained, GPU-hours) with other pod start times; nothing for fixed fleets, which start no pods."""
    error: float
    """By how much engines may be slower than their profile, as a share."""
    slower: Fleet | None
    """The cheapest fixed fleet of the same layout if they are; None if there is none within the budget."""
    longest_share: float
    """Longest request over the KV capacity of one engine."""


def confidence(ground: Ground, fleet: Fleet, settings: SimSettings, *, seed: int) -> Confidence:
    """Simulates a few more runs."""
    judged = ground.judged(fleet.option)
    met = attainment(fleet.run).both[judged]
    arrivals = ground.workload.arrivals[judged]
    target = settings.objective.target
    shares = _draws(met, arrivals, random.Random(f"{seed}/draws"))  # noqa: S311 - reproducible, not secret
    low, high = (float(value) for value in np.quantile(shares, (0.05, 0.95)))
    others = []
    for other in range(1, SEEDS + 1 if fleet.scaled else 1):
        changed = replace(settings, seed=settings.seed + other)
        policy = PlannerPolicy(settled_counts(ground.workload, changed), changed)
        again = simulate(ground, fleet.option, fleet.mode, changed, policy)
        others.append((again.attained, again.gpu_hours))
    error = fleet.option.error
    prompts, outputs = ground.workload.sizes()
    return Confidence(
        low=low,
        high=high,
        holds=float(np.mean([share >= target for share in shares])),
        seeds=tuple(others),
        error=error,
        slower=_if_slower(ground, fleet, settings, error),
        longest_share=float((prompts + outputs).max()) / fleet.option.profile.kv_capacity_tokens,
    )


def _if_slower(ground: Ground, fleet: Fleet, settings: SimSettings, error: float) -> Fleet | None:
    search = FleetSearch(ground, fleet.option, fleet.mode, slower(settings, error))
    if fleet.mode is PoolMode.AGGREGATED:
        return search.smallest(fleet.prefill, 0)
    return search.smallest(fleet.prefill, fleet.decode)


def _draws(met: NDArray[np.bool_], arrivals: NDArray[np.float64], rng: random.Random) -> Sequence[float]:
    """Attained shares of traces put together from windows of this one."""
    if not len(met):
        return [1.0]
    bins = np.minimum(WINDOWS - 1, (WINDOWS * arrivals / max(float(arrivals[-1]), 1e-9)).astype(int))
    counts = np.bincount(bins, minlength=WINDOWS)
    good = np.bincount(bins, weights=met, minlength=WINDOWS)
    shares = []
    for _ in range(DRAWS):
        drawn = [rng.randrange(WINDOWS) for _ in range(WINDOWS)]
        total = int(counts[drawn].sum())
        shares.append(float(good[drawn].sum()) / total if total else 1.0)
    return shares
