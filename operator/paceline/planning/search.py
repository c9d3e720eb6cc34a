"""The search of ``paceline plan``: guess every layout, simulate the promising ones, let Paceline scale the best, try a
few settings. Bounded: at most ``FINALISTS`` layouts a mode, and a dozen or so runs for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from paceline.api.v1alpha1 import ModelDeployment, PoolMode
from paceline.api.wire import Role
from paceline.errors import ConfigError
from paceline.planning.coarse import Guess, guess
from paceline.planning.fleets import Fleet, FleetSearch, Ground, Progress, simulate
from paceline.planning.layouts import EngineOption
from paceline.planning.variants import Bounds, Tweaks, parsed, variant
from paceline.simulator.cluster import Targets
from paceline.simulator.policies.base import settled_counts
from paceline.simulator.policies.planner import PlannerPolicy
from paceline.simulator.scenario import settings_of
from paceline.simulator.settings import Objective, SimSettings
from paceline.simulator.workload import Workload

FINALISTS: Final = 2
"""Layouts of each mode that are simulated."""
PROMISING: Final = 1.6
"""A layout whose guess needs this many times the GPUs of the best guess is not simulated."""
MAX_REQUESTS: Final = 200_000
"""A longer trace is refused: the search simulates it several dozen times."""
CEILING: Final = 0.9
"""A layout must be able to serve this share of the requests in time, or as many as any other layout can: the rest is
left out of what it is judged by, and slow engines must not be let off the long prompts."""
MAX_POOL: Final = 1000
"""Most engines that a pool of the resource can have."""
SPARE: Final = 1.25
"""Room above the peak that was simulated, for the bounds of pools that are scaled."""
GAIN: Final = 0.98
"""A setting must save 2% to be recommended over the default; what saves less may be noise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the search found."""

    objective: Objective
    fleets: Sequence[Fleet]
    """Every fleet simulated with default settings."""
    best: Fleet | None
    """The cheapest that will do; None if none does."""
    by_mode: dict[PoolMode, Fleet]
    """The cheapest of each mode that will do."""
    guesses: Sequence[Guess]
    settings: dict[tuple[int, PoolMode], SimSettings] = field(default_factory=dict)
    """Of what was simulated, by tensor parallel size and mode."""

    def guess_of(self, option: EngineOption) -> Guess:
        """What was guessed of a layout."""
        return next(one for one in self.guesses if one.option is option)

    @property
    def by_mode_fixed(self) -> dict[PoolMode, Fleet]:
        """The cheapest fixed fleet of each mode that will do."""
        return _cheapest(fleet for fleet in self.fleets if fleet.good and not fleet.scaled)

    @property
    def front(self) -> list[Fleet]:
        """Fleets of which no other is better in cost, TTFT and ITL alike, cheapest first."""
        held = [fleet for fleet in self.fleets if np.isfinite(fleet.ttft_ms)]
        best = [one for one in held if not any(_better(other, one) for other in held)]
        return sorted(best, key=lambda fleet: (fleet.gpu_hours, fleet.ttft_ms))


def search(
    md: ModelDeployment,
    options: Sequence[EngineOption],
    workload: Workload,
    *,
    max_gpus: int | None,
    seed: int,
    progress: Progress,
) -> Plan:
    """Search. Raises ConfigError if the trace is too long or no layout can do it."""
    if len(workload) > MAX_REQUESTS:
        raise ConfigError(
            f"--trace: {len(workload):,} requests are too many for a search, which simulates them several dozen times; "
            f"at most {MAX_REQUESTS:,}. Choose a window with --start-minute and --minutes."
        )
    base = settings_of(md, profile=options[0].profile, seed=seed)
    objective = base.objective
    guesses = []
    for number, option in enumerate(options):
        progress(f"sizing TP{option.tensor}", number / len(options))
        guesses.append(guess(option, workload, objective))
    possible = sorted((one for one in guesses if not one.problem), key=lambda one: one.gpus)
    if not possible:
        reasons = "; ".join(f"TP{one.option.tensor}: {one.problem}" for one in guesses)
        raise ConfigError(f"no layout of {md.spec.model.name} can meet the objective: {reasons}.")
    enough = min(CEILING, max(one.ceiling for one in possible))
    guesses = [
        one if one.problem or one.ceiling >= enough else replace(one, problem=_too_slow(one, objective))
        for one in guesses
    ]
    possible = [one for one in possible if one.ceiling >= enough]
    ground = Ground(workload, objective, progress)
    found = _Found(md, ground, max_gpus or _budget_of(md), seed)
    finalists = [one for one in possible if one.gpus <= PROMISING * possible[0].gpus][:FINALISTS]
    for one in finalists:
        for mode in (PoolMode.AGGREGATED, PoolMode.DISAGGREGATED):
            found.add_fixed(one, mode)
    found.add_scaled()
    found.try_settings()
    return Plan(
        objective=objective,
        fleets=found.fleets,
        best=found.best,
        by_mode=found.by_mode,
        guesses=guesses,
        settings=found.settings,
    )


def recommended(md: ModelDeployment, fleet: Fleet) -> dict[str, Any]:
    """The manifest of a fleet, as a mapping that has been validated."""
    if fleet.scaled:
        # Not more engines than were seen to be needed, and some: the next hour is not this one.
        bounds = Bounds(prefill=(1, _spare(fleet.prefill)), decode=(1, _spare(fleet.decode)))
        engines = _spare(max(s.prefill.ready + s.decode.ready for s in fleet.run.samples))
        budget = fleet.option.gpus * min(engines, bounds.prefill[1] + bounds.decode[1])
        if fleet.mode is PoolMode.AGGREGATED:
            budget = fleet.option.gpus * bounds.prefill[1]
    else:
        bounds = Bounds(prefill=(fleet.prefill, fleet.prefill), decode=(fleet.decode, fleet.decode))
        budget = fleet.option.gpus * (fleet.prefill + fleet.decode)
    manifest = variant(md, fleet.option, fleet.mode, bounds, gpu_budget=budget, tweaks=fleet.tweaks)
    parsed(manifest)
    return manifest


class _Found:
    """What the search has simulated so far."""

    def __init__(self, md: ModelDeployment, ground: Ground, max_gpus: int, seed: int) -> None:
        self._md = md
        self._ground = ground
        self._max_gpus = max_gpus
        self._seed = seed
        self.fleets: list[Fleet] = []
        self.tweaked: list[Fleet] = []
        self.settings: dict[tuple[int, PoolMode], SimSettings] = {}

    @property
    def by_mode(self) -> dict[PoolMode, Fleet]:
        """The cheapest that will do."""
        return _cheapest(fleet for fleet in self.fleets if fleet.good)

    @property
    def best(self) -> Fleet | None:
        """Of all, with the settings that were tried."""
        best = min(self.by_mode.values(), key=_cost, default=None)
        for fleet in self.tweaked:
            if best is not None and fleet.good and fleet.gpu_hours < GAIN * best.gpu_hours:
                best = fleet
        return best

    def add_fixed(self, one: Guess, mode: PoolMode) -> None:
        """Search the fixed fleets of a layout."""
        settings = self._settings_of(one.option, mode)
        if settings is None:
            return
        self.settings[one.option.tensor, mode] = settings
        search = FleetSearch(self._ground, one.option, mode, settings)
        found = search.smallest(one.prefill, one.decode)
        if found is not None and found.gpu_hours:
            # Neighbours that cost a little more show what the money buys.
            if mode is PoolMode.AGGREGATED:
                if found.prefill < settings.bounds[Role.BOTH][1]:
                    search.at(found.prefill + 1, 0)
            elif _fits(settings, found.prefill + 1, found.decode):
                search.at(found.prefill + 1, found.decode)
        self.fleets += search.seen

    def add_scaled(self) -> None:
        """Let Paceline scale the best fixed fleet of each mode."""
        for mode, fixed in self.by_mode.items():
            self.fleets.append(self._scaled(fixed.option, mode, self.settings[fixed.option.tensor, mode], Tweaks()))

    def try_settings(self) -> None:
        """A few settings that matter on some traffic, on the best fleet only."""
        best = self.best
        if best is None:
            return
        tries = []
        if best.scaled:
            tries.append(Tweaks(scale_down_window_seconds=600))
        if best.mode is PoolMode.DISAGGREGATED:
            tries.append(Tweaks(local_prefill_tokens=0))
        for tweaks in tries:
            settings = self._settings_of(best.option, best.mode, tweaks)
            if settings is None:
                continue
            if best.scaled:
                self.tweaked.append(self._scaled(best.option, best.mode, settings, tweaks))
            else:
                found = FleetSearch(self._ground, best.option, best.mode, settings).smallest(best.prefill, best.decode)
                if found is not None:
                    self.tweaked.append(replace(found, tweaks=tweaks))

    def _scaled(self, option: EngineOption, mode: PoolMode, settings: SimSettings, tweaks: Tweaks) -> Fleet:
        initial: Targets = settled_counts(self._ground.workload, settings)
        policy = PlannerPolicy(initial, settings)
        return simulate(self._ground, option, mode, settings, policy, tweaks=tweaks)

    def _settings_of(self, option: EngineOption, mode: PoolMode, tweaks: Tweaks | None = None) -> SimSettings | None:
        """None if the budget allows no such fleet at all."""
        engines = min(MAX_POOL, self._max_gpus // max(1, option.gpus))
        apart = mode is PoolMode.DISAGGREGATED
        if engines < 1 + apart:
            return None
        bounds = Bounds(prefill=(1, engines - apart), decode=(1, engines - apart))
        manifest = variant(self._md, option, mode, bounds, gpu_budget=self._max_gpus, tweaks=tweaks)
        return settings_of(parsed(manifest), profile=option.profile, seed=self._seed)


def _too_slow(one: Guess, objective: Objective) -> str:
    return (
        f"even an idle engine serves only {100 * one.ceiling:.0f}% of the requests within {objective.ttft_seconds:g} s"
    )


def _budget_of(md: ModelDeployment) -> int:
    """GPUs that the manifest allows; engines, on CPUs."""
    spec = md.spec
    if spec.scaling.gpu_budget:
        return spec.scaling.gpu_budget
    pools = [pool for pool in (spec.pools.prefill, spec.pools.decode, spec.pools.aggregated) if pool is not None]
    return sum(
        pool.max_replicas * max(1, pool.accelerator.count and spec.parallelism_of(pool).accelerators) for pool in pools
    )


def _fits(settings: SimSettings, prefill: int, decode: int) -> bool:
    gpus = (prefill + decode) * settings.gpus_per_engine
    return prefill <= settings.bounds[Role.PREFILL][1] and gpus <= settings.gpu_budget


def _spare(engines: int) -> int:
    return max(engines, min(MAX_POOL, int(np.ceil(SPARE * engines)))) or 1


def _cheapest(fleets: Iterable[Fleet]) -> dict[PoolMode, Fleet]:
    found: dict[PoolMode, Fleet] = {}
    for fleet in sorted(fleets, key=_cost):
        found.setdefault(fleet.mode, fleet)
    return found


def _cost(fleet: Fleet) -> tuple[float, bool, float]:
    # At equal cost the simpler way to run it, and then the faster one.
    return round(fleet.gpu_hours, 6), fleet.mode is PoolMode.DISAGGREGATED, fleet.ttft_ms


def _better(one: Fleet, than: Fleet) -> bool:
    """Nowhere worse, somewhere better."""
    left = one.gpu_hours, one.ttft_ms, one.itl_ms
    right = than.gpu_hours, than.ttft_ms, than.itl_ms
    return all(a <= b for a, b in zip(left, right, strict=True)) and left != right
