"""Names that Paceline writes on Kubernetes objects. One place, so that builders, watches and docs can't drift apart."""

from __future__ import annotations

from typing import Final

GROUP: Final = "paceline.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "ModelDeployment"
PLURAL: Final = "modeldeployments"
SINGULAR: Final = "modeldeployment"
SHORT_NAME: Final = "mdep"
CATEGORY: Final = "paceline"

FIELD_MANAGER: Final = "paceline"

# Labels on children.
DEPLOYMENT: Final = f"{GROUP}/deployment"
"""Name of the ModelDeployment that a child belongs to."""
COMPONENT: Final = f"{GROUP}/component"
"""``engine``, ``engine-follower`` or ``router``."""
POOL: Final = f"{GROUP}/pool"
"""Hardware pool of an engine. Part of the workload's selector."""
ROLE: Final = f"{GROUP}/role"
"""``prefill``, ``decode`` or ``both``. Not part of any selector: changing it restarts nothing."""
REVISION: Final = f"{GROUP}/revision"
"""Hash of what an engine runs. Engines of different revisions never exchange KV blocks."""

TEMPLATE: Final = f"{GROUP}/template"
"""Hash of an engine's whole pod template. Each has a workload of its own, so it is part of the workload's selector."""

# Annotations.
DRAIN: Final = f"{GROUP}/drain"
"""On an engine pod, ``true`` while it is to take no new work."""
DRAIN_STARTED: Final = f"{GROUP}/drain-started"
"""On an engine pod, when it was told to drain (RFC 3339): its deadline counts from there."""
NEXT_ROLE: Final = f"{GROUP}/next-role"
"""On an engine pod that is to change its role once it has finished what it has: the role. Until then no new work."""
ROLE_CHANGE_STARTED: Final = f"{GROUP}/role-change-started"
"""On such a pod, since when (RFC 3339)."""
APPLIED: Final = f"{GROUP}/applied"
"""On a child, hash of the manifest that was applied last: another one says that the child is out of date."""

ENGINE_PROFILE: Final = f"{GROUP}/engine-profile"
"""On a ModelDeployment, the engine model to plan and to route with instead of what the hardware tells: a name, or the
text that ``paceline calibrate`` writes.
"""
PRIORITY: Final = f"{GROUP}/priority"
"""On a ModelDeployment, a whole number: where GPUs are shared out, higher goes first."""
TLS: Final = f"{GROUP}/tls"
"""On an engine pod, ``true`` where its API is HTTPS: during a roll-out there are engines of both kinds."""
REPLICAS: Final = f"{GROUP}/replicas"
"""On a workload, the size that it was given last: another one was given by hand."""

# Taint.
GPU_FAULT: Final = f"{GROUP}/gpu-fault"
"""On a node on which GPUs failed engines repeatedly, where the operator is told to: nothing more is scheduled there."""

# Readiness gate.
SERVING_GATE: Final = f"{GROUP}/serving"
"""On engine pods: False takes a pod out of service before its workload is scaled down."""

COMPONENT_ENGINE: Final = "engine"
COMPONENT_FOLLOWER: Final = "engine-follower"
"""Pods of a multi-node engine besides its leader. They take no requests of their own."""
COMPONENT_ROUTER: Final = "router"
COMPONENT_OPERATOR: Final = "operator"
"""Objects that the operator keeps for itself."""
