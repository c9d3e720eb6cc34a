"""Who may talk to engines and routers. In force where the cluster's network enforces NetworkPolicy."""

from __future__ import annotations

from typing import Final

from paceline.api import labels, wire
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, child_name, selector_labels
from paceline.policy.resources.pools import hardware_pools

KIND: Final = "networking.k8s.io/v1/NetworkPolicy"
PROMETHEUS_LABELS: Final = {"app.kubernetes.io/name": "prometheus"}
"""What the charts of Prometheus and of its operator put on its pods."""
OPERATOR_LABELS: Final = {"app.kubernetes.io/name": "paceline", "app.kubernetes.io/component": "operator"}


def network_policies(md: ModelDeployment) -> tuple[Manifest, Manifest]:
    """Policies of the engines and of the routers, on what comes in.

    Engines of one deployment reach each other on every port: the side channel is fixed, but the sockets over which
    NIXL moves blocks and over which the ranks of an engine talk are chosen at run time.
    """
    return _engines(md), _routers(md)


def _engines(md: ModelDeployment) -> Manifest:
    deployment = {labels.DEPLOYMENT: selector_labels(md, labels.COMPONENT_ENGINE)[labels.DEPLOYMENT]}
    components = [labels.COMPONENT_ENGINE, labels.COMPONENT_FOLLOWER]

    def engines() -> Manifest:
        chosen = {"key": labels.COMPONENT, "operator": "In", "values": list(components)}
        return {"matchLabels": dict(deployment), "matchExpressions": [chosen]}

    routers = {"podSelector": {"matchLabels": selector_labels(md, labels.COMPONENT_ROUTER)}}
    return _policy(
        md,
        "engines",
        labels.COMPONENT_ENGINE,
        engines(),
        [
            {"from": [routers], "ports": _ports("api", *_event_ports(md))},
            {"from": [{"podSelector": engines()}]},
            {"from": [_anywhere(PROMETHEUS_LABELS)], "ports": _ports("api", "admin")},
            {"from": [_anywhere(OPERATOR_LABELS)], "ports": _ports("admin")},
        ],
    )


def _routers(md: ModelDeployment) -> Manifest:
    return _policy(
        md,
        "router",
        labels.COMPONENT_ROUTER,
        {"matchLabels": selector_labels(md, labels.COMPONENT_ROUTER)},
        [
            {"ports": _ports("api")},
            {"from": [_anywhere(PROMETHEUS_LABELS), _anywhere(OPERATOR_LABELS)], "ports": _ports("admin")},
        ],
    )


def _event_ports(md: ModelDeployment) -> list[int]:
    """Ports of cache events and their replay: each data-parallel rank has its own."""
    ports = wire.EnginePorts()
    ranks = max(pool.parallelism.data for pool in hardware_pools(md.spec))
    return [first + rank for first in (ports.kv_events, ports.kv_replay) for rank in range(ranks)]


def _policy(md: ModelDeployment, name: str, component: str, pods: Manifest, ingress: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(md, child_name(md, name), component),
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _anywhere(pod_labels: dict[str, str]) -> Manifest:
    """Pods with these labels in any namespace."""
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(pod_labels)}}


def _ports(*ports: str | int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": port} for port in ports]
