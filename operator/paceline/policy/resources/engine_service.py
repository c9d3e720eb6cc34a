"""A headless Service of the engines: a DNS record for each that is in service, for tools that look for engines there.

Routers don't use it: they read the pods, which also say roles and drains.
"""

from __future__ import annotations

from paceline.api import labels, wire
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, child_name, selector_labels


def engine_service(md: ModelDeployment) -> Manifest:
    """The Service of the engines of all pools. A pod is in it while its readiness gate is True."""
    ports = wire.EnginePorts()
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(md, child_name(md, "engines"), labels.COMPONENT_ENGINE),
        "spec": {
            "clusterIP": "None",
            "selector": selector_labels(md, labels.COMPONENT_ENGINE),
            "ports": [
                {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
                for name, port in (("api", ports.api), ("admin", ports.admin))
            ],
        },
    }
