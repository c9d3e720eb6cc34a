"""From roles to hardware: which engines share a workload, and may therefore change roles while they run.

The engine builder makes one workload a hardware pool; the planner and the local runtime read the bounds of each role.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.api.v1alpha1 import Accelerator, ModelDeploymentSpec, NodeLabel, Parallelism, Pool, Toleration
from paceline.api.wire import Role


@dataclass(frozen=True, slots=True)
class RoleBounds:
    """How many engines one role may have."""

    role: Role
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class HardwarePool:
    """Engines on the same hardware: one workload. With more than one role its engines change between them."""

    name: str
    bounds: tuple[RoleBounds, ...]
    accelerator: Accelerator
    parallelism: Parallelism
    node_selector: tuple[NodeLabel, ...]
    tolerations: tuple[Toleration, ...]

    @property
    def fixed_role(self) -> Role | None:
        """The role of every engine here, or None where roles change."""
        return self.bounds[0].role if len(self.bounds) == 1 else None

    @property
    def min_replicas(self) -> int:
        """Engines that are needed for the minimum of every role."""
        return sum(bound.minimum for bound in self.bounds)

    @property
    def max_replicas(self) -> int:
        """Engines at the maximum of every role, before the GPU budget."""
        return sum(bound.maximum for bound in self.bounds)

    @property
    def nodes(self) -> int:
        """Pods of one engine. On CPUs it is always one."""
        return max(1, self.accelerators // self.accelerator.count) if self.accelerator.count else 1

    @property
    def accelerators(self) -> int:
        """Accelerators that one engine takes; 0 on CPUs."""
        return self.parallelism.accelerators if self.accelerator.count else 0


FLEXIBLE = "flexible"
"""Name of the pool whose engines change between prefill and decode."""


def hardware_pools(spec: ModelDeploymentSpec) -> tuple[HardwarePool, ...]:
    """The workloads that a valid spec asks for, by hardware: one, or one a role."""
    roles = [
        (role, pool)
        for role, pool in (
            (Role.PREFILL, spec.pools.prefill),
            (Role.DECODE, spec.pools.decode),
            (Role.BOTH, spec.pools.aggregated),
        )
        if pool is not None
    ]
    if len(roles) > 1 and all(_hardware(spec, pool) == _hardware(spec, roles[0][1]) for _, pool in roles):
        return (_pool(spec, FLEXIBLE, roles),)
    return tuple(_pool(spec, "aggregated" if role is Role.BOTH else str(role), [(role, pool)]) for role, pool in roles)


def _hardware(spec: ModelDeploymentSpec, pool: Pool) -> tuple[object, ...]:
    selector = {label.key: label.value for label in pool.node_selector}
    return pool.accelerator, spec.parallelism_of(pool), selector, pool.tolerations


def _pool(spec: ModelDeploymentSpec, name: str, roles: list[tuple[Role, Pool]]) -> HardwarePool:
    first = roles[0][1]
    return HardwarePool(
        name=name,
        bounds=tuple(RoleBounds(role, pool.min_replicas, pool.max_replicas) for role, pool in roles),
        accelerator=first.accelerator,
        parallelism=spec.parallelism_of(first),
        node_selector=first.node_selector,
        tolerations=first.tolerations,
    )
