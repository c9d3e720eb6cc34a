"""The search for the cheapest schedule that meets the objective, by simulation: what ``oracle`` stands for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np

from paceline.simulator.policies.base import Context, settled_counts
from paceline.simulator.policies.oracle import SLOT_SECONDS, OraclePolicy, Schedule, schedules
from paceline.simulator.report import attainment
from paceline.simulator.simulation import Run
from paceline.simulator.static_search import Progress, StaticSearch, passes, simulate
from paceline.simulator.workload import Workload

REFINED: Final = 2
"""Schedules, those that come nearest, whose size is searched."""
STEPS: Final = 4
"""Halvings of the range of sizes: to within 4%."""
SMALLEST: Final = 0.6
LARGEST: Final = 1.3
LONG_SECONDS: Final = 4 * 3600.0
"""Of a longer workload most of the search is done on a part: a run of a day is minutes."""
PART_SECONDS: Final = 2 * 3600.0


def best_schedule(context: Context, progress: Progress) -> Run:
    """The cheapest run of a schedule that passes the gate; that of the best static fleet where none is cheaper.

    Of a long workload only one schedule is simulated as a whole, with several sizes: the one that does best in the
    busiest part of it. Static fleets are tried there only if no size passes.
    """
    if context.workload.seconds > LONG_SECONDS:
        best = _best_of_a_long_one(context, progress) or StaticSearch(context, progress).run()
        best.policy = OraclePolicy.name
        return best
    best = StaticSearch(context, progress).run()
    best.policy = OraclePolicy.name
    tried: list[tuple[float, int, Schedule]] = []
    for number, schedule in enumerate(schedules(context)):
        run = simulate(context, OraclePolicy(schedule, context.settings), f"oracle, schedule {number + 1}", progress)
        best = cheaper(run, best)
        tried.append((_distance(run), number, schedule))
    for _, number, schedule in sorted(tried, key=lambda one: one[:2])[:REFINED]:
        for run in _sizes(context, schedule, f"oracle, schedule {number + 1}", progress):
            best = cheaper(run, best)
    return best


def _best_of_a_long_one(context: Context, progress: Progress) -> Run | None:
    part = busiest_part(context.workload, PART_SECONDS)
    busiest = Context(part, context.settings, settled_counts(part, context.settings))
    distances = []
    for number, one in enumerate(schedules(busiest), 1):
        run = simulate(busiest, OraclePolicy(one, context.settings), f"oracle, a part, schedule {number}", progress)
        distances.append(_distance(run))
    best_number = distances.index(min(distances))
    chosen = next(islice(schedules(context), best_number, None))
    best: Run | None = None
    for run in _sizes(context, chosen, f"oracle, schedule {best_number + 1}", progress):
        if passes(run):
            best = run if best is None else cheaper(run, best)
    return best


def _sizes(context: Context, schedule: Schedule, what: str, progress: Progress) -> Iterator[Run]:
    """Runs of the schedule with other sizes, nearer and nearer to the smallest that passes."""
    low, high = SMALLEST, LARGEST
    for _ in range(STEPS):
        factor = (low + high) / 2
        policy = OraclePolicy(schedule.scaled(factor), context.settings)
        run = simulate(context, policy, f"{what} times {factor:.2f}", progress)
        low, high = (low, factor) if passes(run) else (factor, high)
        yield run


def busiest_part(workload: Workload, seconds: float) -> Workload:
    """The ``seconds`` of it in which most prompt tokens come, as a workload that begins at 0."""
    prompts, _ = workload.sizes()
    slots = np.bincount((workload.arrivals // SLOT_SECONDS).astype(int), weights=prompts)
    length = max(1, min(round(seconds / SLOT_SECONDS), len(slots)))
    first = int(np.convolve(slots, np.ones(length), mode="valid").argmax())
    return workload.part(first * SLOT_SECONDS, (first + length) * SLOT_SECONDS)


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
