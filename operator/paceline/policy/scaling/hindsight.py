"""What a fleet that stays as it is would have missed: the last hour, minute by minute, with each number of engines.

The demand window is short, so that a change is seen soon; on a steady load most of what changes in it is chance, and a
fleet that follows it is larger than it must be: engines are ordered in every bad minute, and kept for a while. What the
whole hour would have needed is a better estimate, as long as nothing has changed. It also knows which minutes are worth
engines: the objective is a share over time, so the misses that it allows belong where one engine more saves least.

Each slice is replayed once, when it is new, with as many sizes of the fleet as tell apart all that is late from nothing
that is; roles are shared in each as is best for it. The sizes' misses add up over slices. Called by the planner.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.demand import scaled
from paceline.policy.scaling.needs import decode_limits, decode_peaks, replay_decode
from paceline.policy.scaling.observation import MAX_CURVES, Account, Attainment, MissCurve
from paceline.policy.scaling.overdraft import LEAST_REQUESTS
from paceline.policy.scaling.prefill_sizing import ReplayOutcome, replay_schedule
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.policy.scaling.traffic import Traffic

SLICE_SECONDS: Final = 60.0
MEMORY_SECONDS: Final = 3600.0
LEAST_SLICES: Final = 10
"""Fewer tell no more than the demand window does."""
PLENTY_SHARE: Final = 0.2
"""Of the allowed misses: a fleet that would have missed no more was more than enough."""
LEAST_PLENTY_SLICES: Final = 3
"""To say so of a fleet."""
TRUSTED_SHARE: Final = 0.9
"""Of the misses that are planned with, what the slices may miss: they assume roles that follow in no time."""
MOST_OVERDRAWN_SECONDS: Final = 300.0
"""Of planned misses: with an account that is overdrawn by more, what happens was not foreseen."""
DECODE_SHARES: Final = (0.0, 0.01, 0.03, 0.06, 0.12, 0.25)
"""Decode gets the engines with which these shares of a slice's requests miss the ITL; the best of them counts."""
NEGLIGIBLE: Final = 0.002
"""Share of a slice's requests: with fewer late ones no larger fleet is looked at."""
TINY: Final = 1e-9
"""So that an engine which is exactly enough is enough."""
STEP: Final = 1.1
"""From one size of a fleet to the next."""


def remember_slice(
    curves: Sequence[MissCurve], traffic: Traffic, settings: ScalingSettings, models: EngineModels, *, correction: float
) -> tuple[MissCurve, ...]:
    """``curves`` with that of what came since the last one, if it is a slice; what is older than an hour is forgotten.

    Only where engines can change roles: the curve is over fleets that share them.
    """
    if settings.aggregated or not settings.flexible:
        return ()
    basis = _basis(settings, models)
    # With another objective, or other engines, other requests would have been late.
    kept = [curve for curve in curves if curve.basis == basis and curve.at > traffic.end - MEMORY_SECONDS]
    last = kept[-1].at if kept else -math.inf
    if traffic.end - last < SLICE_SECONDS:
        return tuple(kept)
    # After a pause of the metrics no more than two slices: what comes before only sets the scene.
    since = max(traffic.begin, last, traffic.end - 2 * SLICE_SECONDS)
    return tuple([*kept, miss_curve(traffic, settings, models, since=since, correction=correction)][-MAX_CURVES:])


def miss_curve(
    traffic: Traffic, settings: ScalingSettings, models: EngineModels, *, since: float, correction: float = 1.0
) -> MissCurve:
    """Of what arrived from ``since`` on. ``correction``: see :mod:`~paceline.policy.scaling.correction`."""
    requests = traffic.requests
    if not bisect_left(requests, (since,)) < len(requests):
        return MissCurve(at=traffic.end, requests=0, basis=_basis(settings, models))
    work = requests if correction == 1 else scaled(requests, lambda _: correction)
    slow = _slow_with(traffic, settings, models, since=since)
    replayed: dict[int, ReplayOutcome] = {}

    def late(engines: int) -> int:
        if engines not in replayed:
            replayed[engines] = replay_schedule(work, ((-math.inf, engines),), traffic.objective, since=since)
        return replayed[engines].feasible - replayed[engines].attained

    engines: list[int] = []
    missed: list[int] = []
    for total in _sizes(settings.most_engines):
        # Requests that miss one of the two are hardly ever the same: what is late has waited, what is slow has not.
        splits = [late(total - decode) + misses for decode, misses in slow.items() if decode < total]
        if not splits:
            continue
        feasible = next(iter(replayed.values())).feasible
        engines.append(total)
        missed.append(min(*splits, feasible))
        if missed[-1] <= NEGLIGIBLE * feasible:
            break
    feasible = next((outcome.feasible for outcome in replayed.values()), 0)
    return MissCurve(
        at=traffic.end,
        requests=feasible,
        engines=tuple(engines),
        missed=tuple(missed),
        basis=_basis(settings, models),
    )


def engines_enough(
    curves: Sequence[MissCurve], *, allowed: float, at_most: int, least_slices: int = LEAST_SLICES
) -> int | None:
    """Smallest fleet that would have missed at most that share of the requests; None where too little is known."""
    requests = sum(curve.requests for curve in curves)
    if len(curves) < least_slices or not requests:
        return None
    low, high = 1, at_most
    while low < high:
        middle = (low + high) // 2
        if math.fsum(missed_with(curve, middle) for curve in curves) <= allowed * requests:
            high = middle
        else:
            low = middle + 1
    return low


def plenty(curves: Sequence[MissCurve], settings: ScalingSettings) -> int | None:
    """Engines that would have been more than enough all the time that is remembered; None where too little is known."""
    allowed = PLENTY_SHARE * (1 - settings.target)
    return engines_enough(curves, allowed=allowed, at_most=settings.most_engines, least_slices=LEAST_PLENTY_SLICES)


def missed_with(curve: MissCurve, engines: int) -> float:
    """Requests of a slice that a fleet of so many would have missed; between two sizes on a straight line."""
    index = bisect_left(curve.engines, engines)
    if index == len(curve.engines):
        return float(curve.missed[-1]) if curve.missed else 0.0
    if curve.engines[index] == engines:
        return float(curve.missed[index])
    if not index:
        return float(curve.requests)
    low, high = curve.engines[index - 1], curve.engines[index]
    part = (engines - low) / (high - low)
    return curve.missed[index - 1] * (1 - part) + curve.missed[index] * part


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What the past shows not to be needed."""

    spared: int = 0
    """Prefill engines of those that are asked for."""
    enough: int = 0
    """Engines of all roles that would have met the objective, where any are spared."""
    seconds: float = 0.0
    """Over how long."""


NOTHING_SPARED: Final = Hindsight()


def spare(
    wanted: Mapping[Role, int],
    curves: Sequence[MissCurve],
    traffic: Traffic,
    account: Account,
    settings: ScalingSettings,
    measured: Attainment | None,
) -> Hindsight:
    """What a steady load can do without, by what the last hour would have needed.

    Nothing while the load changes or the season says that it will, nor while more has been missed than hindsight
    explains, or nobody knows what is missed. Decode keeps what it asks for: what it lacks slows down all that runs.
    """
    if not traffic.steady or traffic.outlook.from_season:
        return NOTHING_SPARED
    if measured is None or measured.requests < LEAST_REQUESTS:
        return NOTHING_SPARED
    if account.overdrawn > MOST_OVERDRAWN_SECONDS * account.planned:
        return NOTHING_SPARED
    allowed = TRUSTED_SHARE * traffic.misses * (1 - settings.target)
    enough = engines_enough(curves, allowed=allowed, at_most=settings.most_engines)
    if enough is None:
        return NOTHING_SPARED
    least = max(1, settings.pools[Role.PREFILL].min_engines)
    spared = min(sum(wanted.values()) - enough, wanted[Role.PREFILL] - least)
    return Hindsight(spared, enough, SLICE_SECONDS * len(curves)) if spared > 0 else NOTHING_SPARED


def _basis(settings: ScalingSettings, models: EngineModels) -> int:
    """A number that differs between objectives and between engines."""
    objective = (settings.ttft_seconds, settings.itl_seconds, settings.kv_usage, settings.late_age_bound_seconds)
    return zlib.crc32(repr((objective, models)).encode())


def _slow_with(traffic: Traffic, settings: ScalingSettings, models: EngineModels, *, since: float) -> Mapping[int, int]:
    """Requests from ``since`` on that miss the ITL, by decode engines: those that memory and batch need, or more."""
    limits = decode_limits(settings, models.decode)
    replayed = replay_decode(traffic.requests, models.decode, limits.itl_seconds)
    (peak,) = decode_peaks(replayed, limits, models.decode, target=settings.target, edges=(since, traffic.end))
    least = max(1, math.ceil(max(peak.batch, peak.kv)))
    room = limits.itl_seconds - models.decode.step_base
    first = bisect_left(replayed.begins, since)
    if room <= 0:
        # No number of engines is fast enough: that is reported elsewhere, and not chased.
        return {least: 0}
    needed = sorted(work / room for work in replayed.works[first:])
    sizes = {max(least, math.ceil(needed[math.ceil(len(needed) * (1 - share)) - 1])) for share in DECODE_SHARES}
    return {size: len(needed) - bisect_left(needed, size + TINY) for size in sorted(sizes)}


def _sizes(most: int) -> Iterator[int]:
    size = 1.0
    while size <= most:
        yield int(size)
        size = max(size + 1, size * STEP)
