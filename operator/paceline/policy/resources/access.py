"""What a router may ask of the Kubernetes API: a ServiceAccount that may read the pods of its namespace."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.policy.resources.common import Manifest, child_metadata, child_name


@dataclass(frozen=True, slots=True)
class RouterAccess:
    """Manifests of the routers' identity."""

    service_account: Manifest
    role: Manifest
    role_binding: Manifest


def router_account_name(md: ModelDeployment) -> str:
    """Name of the ServiceAccount that routers run as, and of its Role and RoleBinding."""
    return child_name(md, "router")


def router_access(md: ModelDeployment) -> RouterAccess:
    """The identity of the routers of ``md``. RBAC knows no label selectors, so it covers all pods of the namespace."""
    name = router_account_name(md)

    def metadata() -> Manifest:
        return child_metadata(md, name, labels.COMPONENT_ROUTER)

    return RouterAccess(
        service_account={
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(),
            # Only pods that ask for the token get it.
            "automountServiceAccountToken": False,
        },
        role={
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata(),
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
        },
        role_binding={
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata(),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": md.metadata.namespace}],
        },
    )
