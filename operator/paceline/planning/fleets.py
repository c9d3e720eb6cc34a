"""One fleet simulated, and the smallest fixed fleet of one layout that meets the objective.

A fleet is judged as everywhere in Paceline by the requests that its engines could serve in time if they were idle;
the others are its ceiling, and which ceilings are good enough is decided before anything is simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paceline.api.v1alpha1 import PoolMode
from paceline.api.wire import Role
from paceline.planning.layouts import EngineOption
from paceline.planning.variants import Tweaks
from paceline.simulator.policies.base import Policy
from paceline.simulator.policies.static import StaticPolicy
from paceline.simulator.report import attainment
from paceline.simulator.score import feasible
from paceline.simulator.settings import Objective, SimSettings
from paceline.simulator.simulation import Run, Simulation
from paceline.simulator.static_search import smallest
from paceline.simulator.workload import Workload

BoolArray = NDArray[np.bool_]

Progress = Callable[[str, float], None]
"""Hears what is simulated, and what share of it is done."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one simulated fleet came to."""

    option: EngineOption
    mode: PoolMode
    prefill: int
    """Most engines at a time for a fleet that scales; aggregated ones count here."""
    decode: int
    scaled: bool
    """Whether Paceline sizes it while it runs; otherwise the counts are fixed."""
    tweaks: Tweaks
    run: Run
    attained: float
    """Share of the feasible requests that met both objectives."""
    attained_of_all: float
    """Share of all requests."""
    itl_held: float
    lost: int
    ttft_ms: float
    """At the target quantile of the feasible requests; infinite where they were refused."""
    itl_ms: float
    good: bool
    """Nothing lost, and the target share attained."""

    @property
    def gpu_hours(self) -> float:
        """Of all engines while the trace lasted. Engines on CPUs count as one."""
        return self.run.gpu_seconds / 3600

    @property
    def engines(self) -> str:
        """In words."""
        counts = f"{self.prefill}" if self.mode is PoolMode.AGGREGATED else f"{self.prefill} + {self.decode}"
        return f"up to {counts}" if self.scaled else counts


@dataclass(frozen=True, slots=True)
class Ground:
    """What all fleets of a search have in common."""

    workload: Workload
    objective: Objective
    progress: Progress

    def judged(self, option: EngineOption) -> BoolArray:
        """Requests that an idle engine of this layout serves in time, if its profile is right."""
        return feasible(self.workload, option.profile, self.objective)


def simulate(
    ground: Ground,
    option: EngineOption,
    mode: PoolMode,
    settings: SimSettings,
    policy: Policy,
    *,
    tweaks: Tweaks | None = None,
) -> Fleet:
    """Run one fleet."""
    total = len(ground.workload)
    what = f"TP{option.tensor} {mode.lower()}: {policy.name} {policy.initial.prefill}+{policy.initial.decode}"
    run = Simulation(ground.workload, policy, settings).run(
        progress=lambda arrived: ground.progress(what, arrived / total)
    )
    met, judged = attainment(run), ground.judged(option)
    target = settings.objective.target
    scaled = policy.interval_seconds is not None
    prefill, decode = _peaks(run) if scaled else (policy.initial.prefill, policy.initial.decode)
    lost = total - run.score.completed - run.score.rejected
    attained = _share(met.both, judged)
    return Fleet(
        option=option,
        mode=mode,
        prefill=prefill,
        decode=0 if mode is PoolMode.AGGREGATED else decode,
        scaled=scaled,
        tweaks=tweaks or Tweaks(),
        run=run,
        attained=attained,
        attained_of_all=float(met.both.mean()),
        itl_held=_share(met.itl, judged),
        lost=lost,
        ttft_ms=_quantile(run.score.ttft[judged], target),
        itl_ms=_quantile(run.score.itl[judged], target),
        good=lost == 0 and attained >= target,
    )


class FleetSearch:
    """The smallest fixed fleet of one layout and mode that will do.

    First the fewest decode engines with which the ITL holds, beside more prefill engines than can be needed; then the
    fewest prefill engines; then the same with one decode engine more, in case that saves two.
    """

    def __init__(self, ground: Ground, option: EngineOption, mode: PoolMode, settings: SimSettings) -> None:
        self._ground = ground
        self._option = option
        self._mode = mode
        self._settings = settings
        self._seen: dict[tuple[int, int], Fleet] = {}

    @property
    def seen(self) -> list[Fleet]:
        """Every fleet that was simulated."""
        return list(self._seen.values())

    def at(self, prefill: int, decode: int) -> Fleet:
        """One fleet, simulated once."""
        key = (prefill, decode)
        if key not in self._seen:
            policy = StaticPolicy(prefill, decode, name="fixed")
            self._seen[key] = simulate(self._ground, self._option, self._mode, self._settings, policy)
        return self._seen[key]

    def smallest(self, prefill: int, decode: int) -> Fleet | None:
        """Begin near a guess. None if not even the largest fleet that the bounds allow will do."""
        bounds, target = self._settings.bounds, self._settings.objective.target
        budget = self._settings.gpu_budget // max(1, self._settings.gpus_per_engine)
        if self._mode is PoolMode.AGGREGATED:
            least, most = bounds[Role.BOTH]
            found = smallest(lambda n: self.at(n, 0).good, prefill + decode, least, min(most, budget))
            return None if found is None else self.at(found, 0)
        (least, most), (least_decode, most_decode) = bounds[Role.PREFILL], bounds[Role.DECODE]
        # Prefill gets what a guess may have missed, but never so much that decode is left with nothing.
        many = max(least, min(most, 2 * prefill + 2, budget - least_decode))
        steps = smallest(
            lambda n: self.at(many, n).itl_held >= target, decode, least_decode, min(most_decode, budget - many)
        )
        if steps is None:
            return None
        prompts = smallest(lambda n: self.at(n, steps).good, prefill, least, min(most, budget - steps))
        best = None if prompts is None else self.at(prompts, steps)
        more = steps + 1
        if more > most_decode:
            return best
        highest = min(most, budget - more) if prompts is None else prompts - 2
        if highest >= least and (prompts is None or self.at(highest, more).good):
            fewer = smallest(lambda n: self.at(n, more).good, highest, least, highest)
            best = best if fewer is None else self.at(fewer, more)
        return best


def slower(settings: SimSettings, share: float) -> SimSettings:
    """The same with engines that take ``share`` longer for everything."""
    profile = settings.profile
    fields = (
        "prefill_base", "prefill_token", "prefill_attention", "step_base", "step_sequence", "step_context",
    )  # fmt: skip
    return replace(
        settings, profile=replace(profile, **{name: getattr(profile, name) * (1 + share) for name in fields})
    )


def _peaks(run: Run) -> tuple[int, int]:
    return (
        max((sample.prefill.ready for sample in run.samples), default=0),
        max((sample.decode.ready for sample in run.samples), default=0),
    )


def _share(met: BoolArray, judged: BoolArray) -> float:
    return float(met[judged].mean()) if judged.any() else 1.0


def _quantile(seconds: NDArray[np.float64], share: float) -> float:
    """Milliseconds; what never came is later than everything."""
    if not len(seconds):
        return 0.0
    ordered = np.sort(np.where(np.isnan(seconds), np.inf, seconds))
    return 1000 * float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])
