"""Starts and drains: how many engines there are, for the far horizon.

Up at once, as far as accelerators are free. Down one at a time, only below everything that was needed within the
scale-down window, and only if the rest would carry a little more than what is forecast. Called by the planner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.allocation import spread
from paceline.policy.scaling.decision import MAX_ACTIONS, Drain, Rejected, Start
from paceline.policy.scaling.observation import Counts, EngineLoad
from paceline.policy.scaling.sizing import Sizing
from paceline.policy.scaling.supply import Pool
from paceline.policy.scaling.windows import down_window, kept_need

DOWN_MARGIN: Final = 1.05
"""The engines that stay must be able to carry this much times the forecast."""
DRAINED_AT_ONCE: Final = 40
"""One drain at a time up to this many engines, one more for each so many beyond: a thousand engines must be able to
shrink within an hour.
"""


@dataclass(frozen=True, slots=True)
class Resize:
    """What is done about the number of engines."""

    engines: Mapping[Role, int]
    """Engines that there will be in the end, by role."""
    starts: tuple[Start, ...] = ()
    drains: tuple[Drain, ...] = ()
    rejected: tuple[Rejected, ...] = ()


def resize(pools: Sequence[Pool], sizing: Sizing, checked: Callable[[], Mapping[Role, int]]) -> Resize:
    """Go from what there is towards what is allowed. ``checked``: what each role needs at :data:`DOWN_MARGIN`."""
    free = free_gpus(pools, sizing.settings.gpu_budget)
    late = [_retried_later(pool, sizing) if free >= 0 else [] for pool in pools]
    shortages = [
        max(0, _wanted(pool, sizing.allowed) - pool.active - len(kept)) for pool, kept in zip(pools, late, strict=True)
    ]
    started, _ = grant(pools, shortages, free)
    starts: list[Start] = []
    drains: list[Drain] = []
    rejected: list[Rejected] = []
    engines: dict[Role, int] = {}
    starved = started != shortages
    for pool, count, shortage, kept in zip(pools, started, shortages, late, strict=True):
        drains += [Drain(engine=engine.name, role=engine.role) for engine in pool.absent if engine not in kept]
        if kept:
            why = "those before were not ready in time either, and each try waits longer than the last"
            rejected.append(Rejected(action=f"replace {len(kept)} late engines now", why=why))
        if count < shortage:
            rejected.append(Rejected(action=f"start {shortage - count} more", why="the GPU budget is used up"))
        if count:
            starts.append(Start(role=_role(pool), count=count))
        gone, why_not = _drains(pool, sizing, checked, starved=starved, over_budget=free < 0)
        drains += gone
        rejected += why_not
        there = pool.active + len(kept) + count - len(gone)
        engines |= spread({role: sizing.allowed[role] for role in pool.limits}, pool.limits, there)
    return Resize(engines, tuple(starts), tuple(drains[:MAX_ACTIONS]), tuple(rejected))


def free_gpus(pools: Sequence[Pool], budget: int | None) -> float:
    """Accelerators that may still be taken; negative when the budget was lowered below what is used."""
    return math.inf if budget is None else budget - sum(pool.gpus for pool in pools)


def grant(pools: Sequence[Pool], shortages: Sequence[int], free: float) -> tuple[list[int], float]:
    """How many engines of each pool may start: one by one where most is missing, as long as accelerators are free."""
    granted = [0] * len(pools)
    while True:
        open_to = [
            index
            for index, pool in enumerate(pools)
            if granted[index] < shortages[index] and pool.gpus_per_engine <= free
        ]
        if not open_to:
            return granted, free
        best = max(open_to, key=lambda index: (shortages[index] - granted[index]) / (shortages[index] + 1))
        granted[best] += 1
        free -= pools[best].gpus_per_engine


def restore(pools: Sequence[Pool], targets: Counts, budget: int | None) -> tuple[Start, ...]:
    """Engines in place of those that were lost while nothing can be decided."""
    shortages = [max(0, sum(targets.of(role) for role in pool.limits) - pool.active) for pool in pools]
    granted, _ = grant(pools, shortages, free_gpus(pools, budget))
    return tuple(Start(role=_role(pool), count=count) for pool, count in zip(pools, granted, strict=True) if count)


def _retried_later(pool: Pool, sizing: Sizing) -> list[EngineLoad]:
    """Engines that are not ready in time and keep their place until they may be replaced: the oldest, as many as are
    wanted, or were within the scale-down window.
    """
    since = sizing.observation.now - sizing.settings.down_window_seconds
    needed = max(
        _wanted(pool, sizing.allowed), kept_need(sizing.wants, tuple(pool.limits), sizing.settings, since=since)
    )
    late = sorted((one for one in pool.absent if one.retry_later), key=lambda one: (-one.age_seconds, one.name))
    return late[: max(0, needed - pool.active)]


def _drains(
    pool: Pool, sizing: Sizing, checked: Callable[[], Mapping[Role, int]], *, starved: bool, over_budget: bool
) -> tuple[list[Drain], list[Rejected]]:
    surplus = pool.active - _wanted(pool, sizing.allowed)
    if surplus <= 0:
        return [], []
    most = sum(limits.max_engines for limits in pool.limits.values())
    forced = over_budget or pool.active > most
    if not (forced or starved):
        measured = sizing.observation.measured
        window = down_window(
            sizing.wants, sizing.settings, start_seconds=measured.start_p95_seconds, indebted=sizing.indebted
        )
        if sizing.wants[0].at > sizing.observation.now - window:
            why = f"the needs of the last {window:.0f} s are not all known yet{_why_longer(window, sizing)}"
            return [], [Rejected(action=f"remove {surplus}", why=why)]
        since = sizing.observation.now - window
        kept = kept_need(sizing.wants, tuple(pool.limits), sizing.settings, since=since, plenty=sizing.plenty)
        if kept >= pool.active:
            why = f"{kept} were needed within the last {window:.0f} s{_why_longer(window, sizing)}"
            return [], [Rejected(action=f"remove {surplus}", why=why)]
        surplus = min(surplus, pool.active - kept)
    if not forced:
        needed = _wanted(pool, checked())
        if needed >= pool.active:
            why = f"{pool.active - 1} could not carry {DOWN_MARGIN:.2f} times the forecast load"
            return [], [Rejected(action="remove 1", why=why)]
        surplus = min(surplus, pool.active - needed)
    return _least_needed(pool, surplus, sizing)


def _why_longer(window_seconds: float, sizing: Sizing) -> str:
    """So that nobody has to find out why a window is not the one that was set."""
    plain = sizing.settings.down_window_seconds
    why = f", not {plain:.0f} s: jumps of the load have cost misses, and the next one is not paid for yet"
    return why if window_seconds > plain else ""


def _least_needed(pool: Pool, surplus: int, sizing: Sizing) -> tuple[list[Drain], list[Rejected]]:
    # Of those that don't serve yet the youngest go: the oldest will be ready first. They have nothing to finish.
    unborn = sorted(pool.starting, key=lambda engine: (engine.age_seconds, engine.name))[:surplus]
    at_once = 1 + pool.active // DRAINED_AT_ONCE
    left = surplus - len(unborn)
    allowed = min(left, max(0, at_once - len(pool.draining)))
    going = unborn + _choose(pool.ready, allowed, sizing)
    rejected = []
    if allowed < left:
        rejected.append(Rejected(action=f"remove {left - allowed} more", why="engines drain one at a time"))
    return [Drain(engine=engine.name, role=engine.role) for engine in going], rejected


def _choose(ready: Sequence[EngineLoad], count: int, sizing: Sizing) -> list[EngineLoad]:
    """``count`` engines, one by one from the role with most to spare, the one with the least to lose first."""
    left = {role: sum(engine.role is role for engine in ready) for role in Role}
    # Where there is not enough for what is needed now, each role is to keep its share of what is allowed.
    needed = sizing.near_wanted if sum(sizing.near_wanted.values()) <= len(ready) else sizing.allowed
    candidates = {engine.name: engine for engine in ready if not engine.changing}
    chosen: list[EngineLoad] = []
    while candidates and len(chosen) < count:
        spare = {role: left[role] - needed.get(role, 0) for role in left}
        engine = max(
            candidates.values(), key=lambda one: (spare[one.role or Role.BOTH], -sizing.losses[one.name], one.name)
        )
        del candidates[engine.name]
        chosen.append(engine)
        left[engine.role or Role.BOTH] -= 1
    return chosen


def _wanted(pool: Pool, engines: Mapping[Role, int]) -> int:
    return sum(engines[role] for role in pool.limits)


def _role(pool: Pool) -> Role | None:
    """Role of a new engine: none yet where it may have any."""
    return next(iter(pool.limits)) if len(pool.limits) == 1 else None
