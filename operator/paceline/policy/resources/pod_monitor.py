"""How Prometheus finds engines and routers, where the Prometheus operator is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, child_name, selector_labels
from paceline.policy.resources.tls import scrape_settings

KIND: Final = "monitoring.coreos.com/v1/PodMonitor"
SCRAPE_INTERVAL: Final = "10s"
"""The planner replays arrivals between two scrapes, and never decides on less than a few of them."""
TARGET_LABELS: Final = (labels.DEPLOYMENT, labels.COMPONENT, labels.POOL, labels.ROLE, labels.REVISION)
"""Labels of the pod that every one of its series gets."""


def pod_monitors(md: ModelDeployment) -> tuple[Manifest, Manifest]:
    """Monitors of the engines and of the routers. An engine has two pages: vLLM's own and that of its worker."""
    return (
        _monitor(md, "engines", labels.COMPONENT_ENGINE, {"api": scrape_settings(md), "admin": {}}),
        _monitor(md, "router", labels.COMPONENT_ROUTER, {"admin": {}}),
    )


def _monitor(md: ModelDeployment, name: str, component: str, ports: Mapping[str, Manifest]) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": child_metadata(md, child_name(md, name), component),
        "spec": {
            "selector": {"matchLabels": selector_labels(md, component)},
            "podTargetLabels": list(TARGET_LABELS),
            "podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "interval": SCRAPE_INTERVAL, **how} for port, how in ports.items()
            ],
        },
    }
