"""From what is wanted to what is done: flips, starts and drains of one pool.

Flips are for the near horizon and never change the number of engines. Starts bring it up at once; drains bring it down
one at a time, the engine with the least to lose first, and engines that have not begun to serve before all others.
Called by the planner only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from paceline.api.wire import Role
from paceline.policy.roles import EngineRole, assign_roles
from paceline.policy.scaling.decision import MAX_ACTIONS, Drain, Flip, Start
from paceline.policy.scaling.observation import EngineLoad
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.supply import Pool

DRAINED_AT_ONCE: Final = 40
"""One drain at a time up to this many engines, one more for each so many beyond: a thousand engines must be able to
shrink within an hour.
"""


def to_lose(engine: EngineLoad, profile: EngineProfile, output_tokens: float, itl_seconds: float) -> float:
    """Engine seconds that are lost, or waited for, when this engine stops what it does."""
    running = engine.running * output_tokens / 2 * itl_seconds / max(1, profile.max_seqs)
    return engine.waiting_seconds + running + engine.reusable_tokens * profile.prefill_token


def flips(pool: Pool, wanted: Mapping[Role, int], losses: Mapping[str, float]) -> tuple[Flip, ...]:
    """Role changes of ready engines that reach ``wanted``: the fewest, of the engines with the least to lose.

    Engines between two roles stay as they are, so what they are wanted for is met by them first.
    """
    settled = [engine for engine in pool.ready if not engine.changing]
    changing = [engine.role for engine in pool.ready if engine.changing]
    left = {role: max(0, count - changing.count(role)) for role, count in wanted.items()}
    engines = [EngineRole(engine.name, engine.role, losses[engine.name]) for engine in settled]
    changes = assign_roles(engines, left)
    return tuple(
        Flip(engine=change.engine, before=change.before or Role.BOTH, after=change.after)
        for change in changes[:MAX_ACTIONS]
    )


def starts(role: Role | None, count: int) -> tuple[Start, ...]:
    """``count`` new engines, or nothing."""
    return (Start(role=role, count=count),) if count > 0 else ()


def drains(
    pool: Pool, count: int, keep: Mapping[Role, int], losses: Mapping[str, float]
) -> tuple[tuple[Drain, ...], bool]:
    """Up to ``count`` engines to remove now, and whether some have to wait for their turn.

    ``keep``: engines that each role needs now; a role that has more gives first.
    """
    # The youngest of those that don't serve yet: the oldest will be ready first.
    unborn = sorted(pool.starting, key=lambda engine: (engine.age_seconds, engine.name))[:count]
    result = [Drain(engine=engine.name, role=engine.role) for engine in unborn]
    missing = count - len(result)
    at_once = 1 + pool.active // DRAINED_AT_ONCE
    allowed = min(missing, max(0, at_once - len(pool.draining)))
    result += [
        Drain(engine=engine.name, role=engine.role) for engine in _least_needed(pool.ready, allowed, keep, losses)
    ]
    return tuple(result[:MAX_ACTIONS]), allowed < missing


def _least_needed(
    ready: Sequence[EngineLoad], count: int, keep: Mapping[Role, int], losses: Mapping[str, float]
) -> list[EngineLoad]:
    """``count`` engines, one by one from the role with most to spare."""
    left = {role: sum(engine.role is role for engine in ready) for role in Role}
    candidates = {engine.name: engine for engine in ready if not engine.changing}
    order: list[EngineLoad] = []
    while candidates and len(order) < count:
        spare = {role: left[role] - keep.get(role, 0) for role in left}
        engine = max(candidates.values(), key=lambda one: (spare[one.role or Role.BOTH], -losses[one.name], one.name))
        del candidates[engine.name]
        order.append(engine)
        left[engine.role or Role.BOTH] -= 1
    return order
