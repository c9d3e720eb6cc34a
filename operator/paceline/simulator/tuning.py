"""The best that a policy can do on a workload: a search for static counts, and small grids for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from paceline.errors import ConfigError
from paceline.simulator.oracle_search import best_schedule
from paceline.simulator.policies import decode_tps, hpa, keda, planner, threshold, throughput
from paceline.simulator.policies.base import Context, Policy, settled_counts
from paceline.simulator.report import attainment
from paceline.simulator.settings import SimSettings
from paceline.simulator.simulation import Run
from paceline.simulator.static_search import STATIC, Progress, StaticSearch, passes, simulate
from paceline.simulator.workload import Workload

TUNED: Final[Mapping[str, Callable[[Context], Iterable[Policy]]]] = {
    "hpa": hpa.candidates,
    "keda": keda.candidates,
    "threshold": threshold.candidates,
    "throughput": throughput.candidates,
    "decode-tps": decode_tps.candidates,
    "planner": planner.candidates,
}
"""Policies that get the best of a grid on the trace itself; the grid of ``planner`` is its defaults."""
ORACLE: Final = "oracle"
POLICIES: Final = (STATIC, *(name for name in TUNED if name != "planner"), ORACLE, "planner")


def _silent(what: str, share: float) -> None:
    """Nobody watches."""


def best_run(name: str, workload: Workload, settings: SimSettings, *, progress: Progress = _silent) -> Run:
    """Simulate the best form of a policy. ``progress`` hears of every run. Raises ConfigError for an unknown name."""
    context = Context(workload, settings, settled_counts(workload, settings))
    if name == STATIC:
        return StaticSearch(context, progress).run()
    if name == ORACLE:
        return best_schedule(context, progress)
    if name not in TUNED:
        raise ConfigError(f"policy {name!r} is not known. Known policies: {', '.join(POLICIES)}.")
    best: Run | None = None
    for number, policy in enumerate(TUNED[name](context)):
        run = simulate(context, policy, f"{name}, setting {number + 1}", progress)
        if best is None or _better(run, best):
            best = run
    if best is None:
        raise AssertionError(f"{name} has no candidates")
    return best


def _better(run: Run, than: Run) -> bool:
    """Passing the gate first, then least GPU-hours; among those that fail, most requests attained for each GPU-hour."""
    if passes(run) or passes(than):
        return passes(run) and (not passes(than) or run.gpu_seconds < than.gpu_seconds)
    return _good_per_second(run) > _good_per_second(than)


def _good_per_second(run: Run) -> float:
    return float(attainment(run).both.sum()) / max(run.gpu_seconds, 1e-9)
