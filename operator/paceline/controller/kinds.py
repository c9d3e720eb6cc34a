"""The kinds that the operator reads and writes, their paths, and which of them a cluster has.

Builders name kinds by ``apiVersion/Kind``; discovery answers in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from paceline.api import labels
from paceline.controller.refusals import NotFound

if TYPE_CHECKING:
    from paceline.controller.api import KubeApi


@dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced kind."""

    api_version: str
    kind: str
    plural: str

    @property
    def id(self) -> str:
        """``apiVersion/Kind``, unique among kinds and versions."""
        return f"{self.api_version}/{self.kind}"

    @property
    def resource(self) -> str:
        """As RBAC and metrics name it: ``deployments.apps``."""
        group = self.api_version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural

    @property
    def root(self) -> str:
        """Path of the API version."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"

    def collection(self, namespace: str | None) -> str:
        """Path of all objects of a namespace, or of all namespaces."""
        where = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{self.root}{where}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """Path of one object."""
        return f"{self.collection(namespace)}/{name}"


MODEL_DEPLOYMENT: Final = Kind(labels.API_VERSION, labels.KIND, labels.PLURAL)
POD: Final = Kind("v1", "Pod", "pods")
EVENT: Final = Kind("v1", "Event", "events")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
SERVICE: Final = Kind("v1", "Service", "services")
DEPLOYMENT: Final = Kind("apps/v1", "Deployment", "deployments")
LEADER_WORKER_SET: Final = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")

WORKLOADS: Final = (DEPLOYMENT, LEADER_WORKER_SET)
"""Kinds that hold engines."""

CHILDREN: Final = (
    CONFIG_MAP,
    SERVICE,
    *WORKLOADS,
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("policy/v1beta1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
)
"""Kinds that builders make. Those that a cluster lacks are left out, and a condition says so."""

BY_ID: Final = {kind.id: kind for kind in CHILDREN}


def kind_of(manifest: dict[str, Any]) -> Kind:
    """The kind of a manifest that a builder made."""
    return BY_ID[f"{manifest['apiVersion']}/{manifest['kind']}"]


async def discover(api: KubeApi, kinds: Iterable[Kind]) -> frozenset[str]:
    """Ids of those ``kinds`` that the server has. One request an API version."""
    wanted: dict[str, list[Kind]] = {}
    for kind in kinds:
        wanted.setdefault(kind.root, []).append(kind)
    found: set[str] = set()
    for root, members in wanted.items():
        try:
            answer = await api.get(root, resource="apiresources")
        except NotFound:
            continue
        served = {entry["name"] for entry in answer.get("resources", ())}
        found.update(kind.id for kind in members if kind.plural in served)
    return frozenset(found)
