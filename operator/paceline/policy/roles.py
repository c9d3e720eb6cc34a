"""Which engines serve prefill and which decode: the smallest set of label changes that reaches the wanted counts.

Pure. Called by the local runtime, and by the planner's actuator, whenever the ready engines or the wanted counts
change.

1. With at least as many engines as wanted, each role is owed what is wanted; engines beyond that keep the role they
   have.
2. With fewer, each wanted role is owed one, and the rest goes by highest averages (Sainte-Laguë), which never takes an
   engine from a role because one more became ready, so a fleet that starts engine by engine does not flap.
3. With fewer engines than wanted roles, every engine serves both: a slow answer is better than none.
4. Engines without a role fill what is missing first; only then does an engine of a role that has too many change,
   the one with the least to lose first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.api.wire import Role


@dataclass(frozen=True, slots=True)
class EngineRole:
    """An engine that is ready, as far as its role goes."""

    name: str
    role: Role | None
    """None until it is assigned one for the first time."""
    load: float = 0.0
    """What a change of role would lose: running sequences, or any figure that grows with it."""


@dataclass(frozen=True, slots=True)
class RoleChange:
    """A label to write."""

    engine: str
    before: Role | None
    after: Role


def assign_roles(engines: Sequence[EngineRole], wanted: Mapping[Role, int]) -> tuple[RoleChange, ...]:
    """Label changes for engines of one hardware pool, sorted by engine name; empty when nothing needs to change.

    ``wanted`` maps roles to counts. Roles with a count of 0 are owed nothing, and an engine that holds one is moved
    only if another role lacks engines. Raises ValueError for a negative count or for two engines of one name.
    """
    if any(count < 0 for count in wanted.values()):
        raise ValueError(f"wanted counts can't be negative: {dict(wanted)}")
    if len({engine.name for engine in engines}) != len(engines):
        raise ValueError("engine names must be unique")
    roles = [role for role in Role if wanted.get(role, 0) > 0]
    if not engines or not roles:
        return ()
    if len(engines) < len(roles):
        return _changes(engines, {engine.name: Role.BOTH for engine in engines})
    return _changes(engines, _fill(engines, quotas(len(engines), wanted), wanted))


def quotas(engines: int, wanted: Mapping[Role, int]) -> dict[Role, int]:
    """Engines that each wanted role is owed: at most what is wanted, in sum at most ``engines``.

    Needs at least one engine for each wanted role. Grows in each role, never shrinks, as ``engines`` grows.
    """
    roles = [role for role in Role if wanted.get(role, 0) > 0]
    owed = dict.fromkeys(roles, 1)
    for _ in range(len(roles), min(engines, sum(wanted[role] for role in roles))):
        short = [role for role in roles if owed[role] < wanted[role]]
        # Decode before prefill on a tie: a request can do without remote prefill, never without decode.
        best = max(short, key=lambda role: (wanted[role] / (2 * owed[role] + 1), role is Role.DECODE))
        owed[best] += 1
    return owed


def _fill(engines: Sequence[EngineRole], owed: Mapping[Role, int], wanted: Mapping[Role, int]) -> dict[str, Role]:
    """Role of every engine: ``owed`` is met, and no more engines change than that takes."""
    result = {engine.name: engine.role for engine in engines if engine.role in owed}
    held = Counter(result.values())
    free = sorted((engine for engine in engines if engine.role not in owed), key=_least_to_lose)
    spare = sorted((engine for engine in engines if engine.role in owed), key=_least_to_lose)
    for role, count in owed.items():
        while held[role] < count:
            engine = free.pop(0) if free else _take_spare(spare, held, owed)
            if engine.role is not None and engine.name in result:
                held[engine.role] -= 1
            result[engine.name] = role
            held[role] += 1
    for engine in free:
        # More engines than wanted. One that never had a role joins where it helps most for its share.
        if engine.role is None or engine.role is Role.BOTH:
            role = max(owed, key=lambda role: (wanted[role] / (2 * held[role] + 1), role is Role.DECODE))
            result[engine.name] = role
            held[role] += 1
        else:
            result[engine.name] = engine.role
    return {name: role for name, role in result.items() if role is not None}


def _take_spare(spare: list[EngineRole], held: Counter[Role | None], owed: Mapping[Role, int]) -> EngineRole:
    """The engine with the least to lose among those whose role has more than it is owed."""
    for index, engine in enumerate(spare):
        if engine.role is not None and held[engine.role] > owed[engine.role]:
            return spare.pop(index)
    raise AssertionError("the roles are owed more engines than there are")


def _least_to_lose(engine: EngineRole) -> tuple[bool, float, str]:
    return engine.role is not None, engine.load, engine.name


def _changes(engines: Sequence[EngineRole], result: Mapping[str, Role]) -> tuple[RoleChange, ...]:
    return tuple(
        RoleChange(engine.name, engine.role, result[engine.name])
        for engine in sorted(engines, key=lambda engine: engine.name)
        if engine.role is not result[engine.name]
    )
