"""Flips: which running engines change their role, for the near horizon. They never change the number of engines.

An engine changes when one role lacks engines and the other has more than it needs; one of decode only if decode has
had that for a while, so that noise takes nothing from streams. The while is a moment where the mix moves towards
prefill, and the whole demand window where it does not: on real traces what decode needs halves and doubles from one
minute to the next, and the engines that it gave away in a quiet minute are missing from every stream of the next. When
both lack engines, the shortage is shared only if that clearly helps. Called by the planner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from paceline.api.wire import Role
from paceline.policy.roles import EngineRole, assign_roles
from paceline.policy.scaling.allocation import share_out
from paceline.policy.scaling.decision import MAX_ACTIONS, Flip, Rejected
from paceline.policy.scaling.settings import ScalingSettings
from paceline.policy.scaling.sizing import Sizing
from paceline.policy.scaling.supply import Pool
from paceline.policy.scaling.traffic import Traffic
from paceline.policy.scaling.windows import recent_near_need

DONOR_SECONDS: Final = 30.0
"""While the mix moves towards prefill a decode engine changes if decode could have done without it for this long."""
SHARING_GAIN: Final = 1.15
"""When both roles lack engines, the worse off must gain this factor in coverage before any engine changes."""


def donor_seconds(traffic: Traffic, settings: ScalingSettings) -> float:
    """For how long decode must have had more engines than it needs before it gives one up."""
    return min(DONOR_SECONDS, settings.demand_window_seconds) if traffic.to_prefill else settings.demand_window_seconds


def reassign(pool: Pool, sizing: Sizing) -> tuple[tuple[Flip, ...], tuple[Rejected, ...]]:
    """Flips of one pool, and those that were thought of and not made."""
    measured = sizing.observation.measured
    if len(pool.limits) < 2 or not pool.ready:
        return (), ()
    need, steady = sizing.near_wanted, sizing.near_steady
    have = {role: pool.ready_of(role) for role in pool.limits}
    short = [role for role in pool.limits if have[role] < need[role]]
    unassigned = any(engine.role not in pool.limits for engine in pool.ready)
    if not short and not unassigned:
        return (), ()
    if short and measured.flip_seconds >= measured.start_p50_seconds:
        why = f"a change of role takes {measured.flip_seconds:.0f} s, a start {measured.start_p50_seconds:.0f} s"
        return (), (Rejected(action=f"change engines to {short[0]}", why=why),)
    enough = sum(steady.values()) <= len(pool.ready)
    if enough:
        wanted = _with_patience(pool, sizing, have)
    else:
        steady = {**steady, Role.DECODE: _decode_need(sizing)}
        wanted = _shared(pool, steady, running=sizing.near_running)
        starved = have[Role.DECODE] < wanted[Role.DECODE]
        if not (unassigned or starved) and _coverage(wanted, steady) < SHARING_GAIN * _coverage(have, steady):
            why = "every role lacks engines, and another split would hardly help"
            return (), (Rejected(action=f"change engines to {short[0]}", why=why),)
    flips = _flips(pool, wanted, sizing.losses)
    rejected = tuple(
        Rejected(
            action=f"change {need[role] - wanted[role]} more to {role}",
            why=(
                f"decode needed its engines within the last {sizing.donor_seconds:.0f} s"
                if role is Role.PREFILL
                else "prefill needs the others"
            ),
        )
        for role in short
        if wanted[role] < need[role] and enough
    )
    return flips, rejected


def _shared(pool: Pool, need: Mapping[Role, int], *, running: int) -> dict[Role, int]:
    """A shortage shared, with a fraction of an engine going to decode, and what runs already being served first.

    Prefill engines that lack make some requests late. Decode engines that lack slow down every request there is. Beyond
    half of the engines what runs has no such claim: those who wait get their share.
    """
    engines = len(pool.ready)
    wanted = share_out(need, pool.limits, engines * pool.gpus_per_engine)
    decode = math.ceil(need[Role.DECODE] * engines / sum(need.values()))
    spare = wanted[Role.PREFILL] - max(1, pool.limits[Role.PREFILL].min_engines)
    more = (
        max(min(decode, wanted[Role.DECODE] + 1), min(running, need[Role.DECODE], engines // 2)) - wanted[Role.DECODE]
    )
    moved = min(max(0, more), max(0, spare))
    wanted[Role.DECODE] += moved
    wanted[Role.PREFILL] -= moved
    return wanted


def _with_patience(pool: Pool, sizing: Sizing, have: Mapping[Role, int]) -> dict[Role, int]:
    """What each role is to have, when there is enough for all: decode does not fall below what it needed a moment ago.

    Prefill may: an engine that it lacks makes some requests late, one that decode lacks slows down all that runs. For
    the same reason what is left goes to decode first.
    """
    engines, wanted = len(pool.ready), dict(have)
    needed = {**sizing.near_steady, Role.DECODE: _decode_need(sizing)}
    kept = {role: min(have[role], needed[role]) for role in pool.limits}
    for role in (Role.DECODE, Role.PREFILL):
        others = engines - sum(kept.values()) + kept[role]
        kept[role] = wanted[role] = max(kept[role], min(sizing.near_wanted[role], others))
    return wanted


def _decode_need(sizing: Sizing) -> int:
    """Engines that decode needs now, or did a while ago."""
    since = sizing.observation.now - sizing.donor_seconds
    return max(sizing.near_steady[Role.DECODE], recent_near_need(sizing.wants, Role.DECODE, since=since))


def _flips(pool: Pool, wanted: Mapping[Role, int], losses: Mapping[str, float]) -> tuple[Flip, ...]:
    """The fewest changes that reach ``wanted``, of the engines with the least to lose.

    Engines between two roles can't change again yet: they are taken off what is wanted of their new one.
    """
    changing = [engine.role for engine in pool.ready if engine.changing]
    left = {role: max(0, count - changing.count(role)) for role, count in wanted.items()}
    settled = [
        EngineRole(engine.name, engine.role, losses[engine.name]) for engine in pool.ready if not engine.changing
    ]
    if len(settled) < sum(count > 0 for count in left.values()) and changing:
        return ()
    changes = assign_roles(settled, left)
    return tuple(Flip(engine=one.engine, before=one.before, after=one.after) for one in changes[:MAX_ACTIONS])


def _coverage(have: Mapping[Role, int], need: Mapping[Role, int]) -> float:
    return min((have[role] / need[role] for role in need if need[role]), default=math.inf)
