"""All children of a ModelDeployment at once: the entry of the controller and of the local runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Images, Manifest
from paceline.policy.resources.engine import EngineChildren, engine_children
from paceline.policy.resources.pools import hardware_pools
from paceline.policy.resources.router import RouterChildren, router_children


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that a ModelDeployment makes."""

    engines: tuple[EngineChildren, ...]
    router: RouterChildren

    def manifests(self) -> tuple[Manifest, ...]:
        """All manifests, in an order in which they can be applied: what is referred to comes first."""
        return (
            *(engine.config_map for engine in self.engines),
            self.router.config_map,
            self.router.service,
            *(engine.workload for engine in self.engines),
            self.router.deployment,
        )


def children(
    md: ModelDeployment,
    *,
    images: Images | None = None,
    replicas: Mapping[str, int] | None = None,
) -> Children:
    """Build all children. ``replicas`` counts engines by pool name; a pool without a count leaves it to the planner.

    Raises SpecError where a ``podTemplate`` doesn't fit or a setting can't be served by this version.
    """
    defaults = images or Images()
    counts = replicas or {}
    return Children(
        engines=tuple(
            engine_children(md, pool, images=defaults, replicas=counts.get(pool.name))
            for pool in hardware_pools(md.spec)
        ),
        router=router_children(md, images=defaults),
    )
