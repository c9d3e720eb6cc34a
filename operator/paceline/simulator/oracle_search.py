"""The search for the cheapest schedule that meets the objective, by simulation: what ``oracle`` stands for."""

from __future__ import annotations

from typing import Final

from paceline.simulator.policies.base import Context
from paceline.simulator.policies.oracle import OraclePolicy, Schedule, schedules
from paceline.simulator.report import attainment
from paceline.simulator.simulation import Run
from paceline.simulator.static_search import Progress, StaticSearch, passes, simulate

REFINED: Final = 2
"""Schedules, those that come nearest, whose size is searched."""
STEPS: Final = 4
"""Halvings of the range of sizes: to within 4%."""
SMALLEST: Final = 0.6
LARGEST: Final = 1.3


def best_schedule(context: Context, progress: Progress) -> Run:
    """The cheapest run of a schedule that passes the gate; that of the best static fleet where none is cheaper."""
    best = StaticSearch(context, progress).run()
    best.policy = OraclePolicy.name
    tried: list[tuple[float, int, Schedule]] = []
    for number, schedule in enumerate(schedules(context)):
        run = simulate(context, OraclePolicy(schedule, context.settings), f"oracle, schedule {number + 1}", progress)
        best = cheaper(run, best)
        tried.append((_distance(run), number, schedule))
    for _, number, schedule in sorted(tried, key=lambda one: one[:2])[:REFINED]:
        low, high = SMALLEST, LARGEST
        for _ in range(STEPS):
            factor = (low + high) / 2
            policy = OraclePolicy(schedule.scaled(factor), context.settings)
            run = simulate(context, policy, f"oracle, schedule {number + 1} times {factor:.2f}", progress)
            best = cheaper(run, best)
            low, high = (low, factor) if passes(run) else (factor, high)
    return best


def cheaper(run: Run, than: Run) -> Run:
    """The one that passes the gate for fewer GPU-hours."""
    if passes(run) and (not passes(than) or run.gpu_seconds < than.gpu_seconds):
        return run
    return than


def _distance(run: Run) -> float:
    """GPU-hours a schedule would need to pass, roughly: dearer by four times the share that it misses."""
    met = attainment(run)
    share = float(met.both[met.feasible].mean()) if met.feasible.any() else 1.0
    return run.gpu_seconds * (1 + 4 * max(0.0, run.settings.objective.target - share))
