"""What the planner remembers of engines from one look to the next: since when they are as they are, and how long starts
took.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from paceline.api.wire import EngineState, Role
from paceline.planner.observe import EnginePod
from paceline.policy.scaling.observation import Measured

LEAST_STARTS: Final = 5
"""Starts that must have been seen before their times are believed."""
REMEMBERED_STARTS: Final = 50
LEAST_CHANGES: Final = 3
"""The same for changes of role that wait for the work of the old one."""
FORMER_WORK_SECONDS: Final = 3600.0
"""After so long an engine has no work of a role that it had before."""


@dataclass(frozen=True, slots=True)
class EngineFact:
    """An engine as it is now."""

    name: str
    role: Role | None
    state: EngineState
    created: float
    """Seconds on the planner's clock."""
    changing: bool = False
    """Whether ``role`` is the one that it takes when it has finished the work of another."""


@dataclass(slots=True)
class _Known:
    state: EngineState
    since: float
    role: Role | None
    role_since: float | None
    """When it took its role from another one; None: it has had no other."""
    served: bool
    changing_since: float | None = None


class EngineMemory:
    """Looks at all engines each time. As large as the fleet."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._starts: deque[float] = deque(maxlen=REMEMBERED_STARTS)
        self._changes: deque[float] = deque(maxlen=REMEMBERED_STARTS)
        self.started = 0
        """Engines that were seen to get ready, ever."""

    def look(self, engines: Sequence[EngineFact], now: float) -> tuple[EnginePod, ...]:
        """Take note, and say what the planner is to see of them."""
        known = {one.name: self._take(one, now) for one in engines}
        self._known = known
        return tuple(
            EnginePod(
                name=one.name,
                role=one.role,
                state=one.state,
                age_seconds=now - known[one.name].since,
                changing=one.changing,
                role_changed=(at := known[one.name].role_since) is not None and now - at < FORMER_WORK_SECONDS,
            )
            for one in engines
        )

    @property
    def measured(self) -> Measured:
        """How long changes take, as far as enough of them have been seen."""
        starts, changes, measured = sorted(self._starts), sorted(self._changes), Measured()
        if len(starts) >= LEAST_STARTS:
            measured = replace(
                measured,
                start_p50_seconds=starts[len(starts) // 2],
                start_p95_seconds=starts[min(len(starts) - 1, int(0.95 * len(starts)))],
            )
        if len(changes) >= LEAST_CHANGES:
            measured = replace(measured, flip_seconds=max(measured.flip_seconds, changes[len(changes) // 2]))
        return measured

    def _take(self, one: EngineFact, now: float) -> _Known:
        before = self._known.get(one.name)
        if before is None:
            # What was there before the first look tells nothing about starts.
            since = one.created if one.state is EngineState.STARTING else now
            return _Known(one.state, since, one.role, None, one.state is not EngineState.STARTING)
        if before.state is not one.state:
            if one.state is EngineState.READY and not before.served:
                self._starts.append(max(0.0, now - one.created))
                self.started += 1
            before.served = before.served or one.state is EngineState.READY
            before.state, before.since = one.state, now
        if before.role is not one.role:
            before.role_since = None if before.role is None else now
            before.role = one.role
        if one.changing and before.changing_since is None:
            before.changing_since = now
        elif not one.changing and before.changing_since is not None:
            self._changes.append(now - before.changing_since)
            before.changing_since = None
        return before
