"""What is there: pods sorted into pools by whether they count, and the accelerators that they hold.

A pool is the set of engines that can stand in for each other: both roles of a flexible deployment, or one role by
itself. A pod that is not ready by its deadline is absent: it counts for nothing but its accelerators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paceline.api.wire import EngineState, Role
from paceline.policy.scaling.observation import Counts, EngineLoad, Observation
from paceline.policy.scaling.settings import PoolSettings, ScalingSettings


@dataclass(slots=True)
class Pool:
    """Engines of the same hardware. ``limits`` holds its roles."""

    limits: Mapping[Role, PoolSettings]
    ready: list[EngineLoad] = field(default_factory=list)
    """Those between two roles too."""
    starting: list[EngineLoad] = field(default_factory=list)
    draining: list[EngineLoad] = field(default_factory=list)
    absent: list[EngineLoad] = field(default_factory=list)

    @property
    def gpus_per_engine(self) -> int:
        """Of any role: they are the same."""
        return next(iter(self.limits.values())).gpus_per_engine

    @property
    def active(self) -> int:
        """Engines that serve, or will."""
        return len(self.ready) + len(self.starting)

    @property
    def gpus(self) -> int:
        """Accelerators that are taken, by whatever."""
        return (self.active + len(self.draining) + len(self.absent)) * self.gpus_per_engine

    def ready_of(self, role: Role) -> int:
        """Ready engines of one role; those that serve both count for each."""
        return sum(engine.role in (role, Role.BOTH) for engine in self.ready)


def survey(observation: Observation, settings: ScalingSettings) -> tuple[Pool, ...]:
    """The pools of a deployment. A pod whose role no pool has counts in the first one."""
    pools = _pools(settings)
    for engine in observation.engines:
        pool = next((pool for pool in pools if engine.role in pool.limits), pools[0])
        if engine.state is EngineState.READY:
            pool.ready.append(engine)
        elif engine.state is EngineState.DRAINING:
            pool.draining.append(engine)
        elif engine.age_seconds > settings.start_deadline_seconds:
            pool.absent.append(engine)
        else:
            pool.starting.append(engine)
    return pools


def ready_counts(pools: Sequence[Pool]) -> Counts:
    """Engines that serve their role, over all pools; those between two roles don't serve the new one yet."""
    roles = [engine.role for pool in pools for engine in pool.ready if not engine.changing]
    return Counts(prefill=roles.count(Role.PREFILL), decode=roles.count(Role.DECODE), both=roles.count(Role.BOTH))


def _pools(settings: ScalingSettings) -> tuple[Pool, ...]:
    if settings.flexible:
        return (Pool(settings.pools),)
    return tuple(Pool({role: pool}) for role, pool in settings.pools.items())
