"""Names, labels and owner references that all children of a ModelDeployment share. Every builder calls this."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from paceline import __version__
from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment

Manifest = dict[str, Any]
"""A Kubernetes object as it goes to the API server."""

NAME_LIMIT: Final = 63
"""Longest DNS label: Services, ports and label values stop there."""
WORKLOAD_NAME_LIMIT: Final = NAME_LIMIT - 17
"""Longest name of a workload, so that its pods (`-<hash of 10>-<random 5>`) still have whole host names."""
HASH_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class Images:
    """Images that are used where the resource names none. The operator's settings may point to a mirror."""

    engine: str = f"ghcr.io/paceline/worker:{__version__}"
    router: str = f"ghcr.io/paceline/router:{__version__}"


def short_hash(value: Any) -> str:
    """Eight hex digits of a JSON value; equal values have equal hashes in every process."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]


def dns_label(text: str, *, limit: int = NAME_LIMIT) -> str:
    """``text`` as a DNS label of at most ``limit`` characters that starts with a letter.

    Text that has to be changed gets a hash of the original, so that different texts stay different.
    """
    label = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if not label or not label[0].isalpha():
        label = f"m-{label}".rstrip("-")
    if label == text and len(label) <= limit:
        return label
    head = label[: limit - HASH_LENGTH - 1].rstrip("-")
    return f"{head}-{short_hash(text)}"


def child_name(md: ModelDeployment, *parts: str, limit: int = NAME_LIMIT) -> str:
    """Name of a child: the resource's own name, then what the child is."""
    return dns_label("-".join((md.metadata.name, *parts)), limit=limit)


def selector_labels(md: ModelDeployment, component: str, pool: str | None = None) -> dict[str, str]:
    """Labels that select the pods of one workload. They never change during the workload's life."""
    selected = {labels.DEPLOYMENT: dns_label(md.metadata.name), labels.COMPONENT: component}
    return selected if pool is None else {**selected, labels.POOL: pool}


def child_labels(md: ModelDeployment, component: str, pool: str | None = None) -> dict[str, str]:
    """Labels of a child: those of its selector, and the ones that Kubernetes recommends."""
    return {
        "app.kubernetes.io/name": "paceline",
        "app.kubernetes.io/instance": dns_label(md.metadata.name),
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "paceline",
        **selector_labels(md, component, pool),
    }


def child_metadata(md: ModelDeployment, name: str, component: str, pool: str | None = None) -> Manifest:
    """Metadata of a child, owned by the resource where that has been in a cluster."""
    metadata: Manifest = {
        "name": name,
        "namespace": md.metadata.namespace,
        "labels": child_labels(md, component, pool),
    }
    if md.metadata.uid is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": labels.API_VERSION,
                "kind": labels.KIND,
                "name": md.metadata.name,
                "uid": md.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return metadata


def config_map(md: ModelDeployment, name: str, key: str, document: bytes, component: str, pool: str | None) -> Manifest:
    """An immutable ConfigMap with one document, whose name ends in a hash of its content.

    So pods that read another document are other pods, and a container that restarts in the middle of a roll-out reads
    what it read before. Those that no pod refers to any more are for the controller to remove.
    """
    text = document.decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(md, child_name(md, name, short_hash(text)), component, pool),
        "immutable": True,
        "data": {key: text},
    }


def field_env(name: str, path: str) -> Manifest:
    """An environment variable that holds a field of the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def pod_identity() -> list[Manifest]:
    """Variables by which a process knows its pod."""
    return [
        field_env("POD_NAME", "metadata.name"),
        field_env("POD_NAMESPACE", "metadata.namespace"),
        field_env("POD_IP", "status.podIP"),
    ]


def pod_security() -> Manifest:
    """Pod security context that the restricted Pod Security Standard asks for. Images name a numeric user."""
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> Manifest:
    """Container security context that the restricted Pod Security Standard asks for, and a read-only root besides."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def http_probe(path: str, *, period_seconds: int, failures: int, timeout_seconds: int = 2) -> Manifest:
    """A probe of the admin server, which both engine workers and routers have on the port called ``admin``."""
    return {
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period_seconds,
        "failureThreshold": failures,
        "timeoutSeconds": timeout_seconds,
    }
