"""How many engines and routers a node drain may take at a time: one, which leaves the others to serve meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, child_name, selector_labels

KIND: Final = "policy/v1/PodDisruptionBudget"
OLD_KIND: Final = "policy/v1beta1/PodDisruptionBudget"
"""Of clusters before Kubernetes 1.21."""


def disruption_budgets(md: ModelDeployment, kinds: Collection[str]) -> tuple[Manifest, ...]:
    """Budgets of the engines and of the routers, in the version that the cluster has; none where it has neither."""
    version = next((kind.rpartition("/")[0] for kind in (KIND, OLD_KIND) if kind in kinds), None)
    if version is None:
        return ()
    return tuple(
        _budget(md, name, component, version)
        for name, component in (("engines", labels.COMPONENT_ENGINE), ("router", labels.COMPONENT_ROUTER))
    )


def _budget(md: ModelDeployment, name: str, component: str, version: str) -> Manifest:
    spec: Manifest = {
        # Not minAvailable: that would keep a node with the only engine of a deployment from ever being drained.
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector_labels(md, component)},
    }
    if version == "policy/v1":
        # An engine that is not ready serves nobody; it need not hold up the node.
        spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
    return {
        "apiVersion": version,
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(md, child_name(md, name), component),
        "spec": spec,
    }
