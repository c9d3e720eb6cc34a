"""All children of a ModelDeployment at once: the entry of the controller and of the local runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources import disruption_budget, network_policy, pod_monitor
from paceline.policy.resources.access import RouterAccess, router_access
from paceline.policy.resources.common import Images, Manifest
from paceline.policy.resources.engine import LEADER_WORKER_SET, EngineChildren, engine_children
from paceline.policy.resources.engine_service import engine_service
from paceline.policy.resources.pools import hardware_pools
from paceline.policy.resources.router import RouterChildren, router_children

OPTIONAL_KINDS: Final = frozenset(
    {
        LEADER_WORKER_SET,
        pod_monitor.KIND,
        disruption_budget.KIND,
        disruption_budget.OLD_KIND,
        network_policy.KIND,
    }
)
"""Kinds that a cluster may lack, as ``apiVersion/Kind``. The controller finds out which are there."""


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that a ModelDeployment makes."""

    engines: tuple[EngineChildren, ...]
    router: RouterChildren
    access: RouterAccess
    engine_service: Manifest
    budgets: tuple[Manifest, ...]
    policies: tuple[Manifest, ...]
    monitors: tuple[Manifest, ...]
    missing: tuple[str, ...]
    """Kinds, as ``apiVersion/Kind``, of children that are left out because the cluster lacks them."""

    def manifests(self) -> tuple[Manifest, ...]:
        """All manifests, in an order in which they can be applied: what is referred to comes first."""
        return (
            self.access.service_account,
            self.access.role,
            self.access.role_binding,
            *(engine.config_map for engine in self.engines),
            self.router.config_map,
            self.router.service,
            self.engine_service,
            # Before the pods that they are about: no engine is open for a moment.
            *self.policies,
            *self.budgets,
            *self.monitors,
            *(engine.workload for engine in self.engines if _kind(engine.workload) not in self.missing),
            self.router.deployment,
        )


def children(
    md: ModelDeployment,
    *,
    images: Images | None = None,
    replicas: Mapping[str, int] | None = None,
    kinds: Collection[str] = OPTIONAL_KINDS,
) -> Children:
    """Build all children. ``replicas`` counts engines by pool name; a pool without a count leaves it to the planner.
    ``kinds`` holds those of OPTIONAL_KINDS that the cluster has: children of others are left out and named.

    Raises SpecError where a ``podTemplate`` doesn't fit or a setting can't be served by this version.
    """
    defaults = images or Images()
    counts = replicas or {}
    engines = tuple(
        engine_children(md, pool, images=defaults, replicas=counts.get(pool.name)) for pool in hardware_pools(md.spec)
    )
    budgets = disruption_budget.disruption_budgets(md, kinds)
    wanted = {
        network_policy.KIND: network_policy.network_policies(md),
        pod_monitor.KIND: pod_monitor.pod_monitors(md),
    }
    missing = {kind for kind in wanted if kind not in kinds}
    if not budgets:
        missing.add(disruption_budget.KIND)
    if LEADER_WORKER_SET not in kinds and any(_kind(engine.workload) == LEADER_WORKER_SET for engine in engines):
        missing.add(LEADER_WORKER_SET)
    return Children(
        engines=engines,
        router=router_children(md, images=defaults),
        access=router_access(md),
        engine_service=engine_service(md),
        budgets=budgets,
        policies=wanted[network_policy.KIND] if network_policy.KIND in kinds else (),
        monitors=wanted[pod_monitor.KIND] if pod_monitor.KIND in kinds else (),
        missing=tuple(sorted(missing)),
    )


def _kind(manifest: Manifest) -> str:
    return f"{manifest['apiVersion']}/{manifest['kind']}"
