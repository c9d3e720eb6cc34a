"""One ModelDeployment in a test: made, changed, watched until it is as expected, and asked for completions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from paceline.api import labels
from paceline.api.labels import KIND
from tests.api.documents import minimal_manifest
from tests.kube.client import MERGE, Kube, Manifest, condition, model_path, until

CHILD_KINDS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1beta1/namespaces/{}/poddisruptionbudgets",
}


class Scene:
    """A deployment called ``name``. It asks for one prefill and one decode engine and one router, unless changed."""

    def __init__(self, kube: Kube, namespace: str, name: str = "small") -> None:
        self.kube = kube
        self.namespace = namespace
        self.name = name
        self.manifest = small(name)
        self.path = model_path(namespace, name)

    # What the user does.

    def set(self, path: str, value: Any) -> Scene:
        """Change the manifest before it is applied; ``path`` as in ``spec.slo.targetPercent``."""
        *parents, last = path.split(".")
        target = self.manifest
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value
        return self

    def pool(self, **changes: Any) -> Scene:
        """Change prefill and decode alike, so that they stay one pool of flexible engines."""
        for role in ("prefill", "decode"):
            self.manifest["spec"]["pools"][role].update(copy.deepcopy(changes))
        return self

    def apply(self) -> Scene:
        self.kube.apply(self.manifest, self.namespace)
        return self

    def change(self, path: str, value: Any) -> Scene:
        """Change one field of the applied resource."""
        return self.set(path, value).apply()

    def delete(self) -> None:
        self.kube.delete(self.path)

    # What there is.

    @property
    def resource(self) -> Manifest:
        found = self.kube.get(self.path)
        assert found is not None, f"{self.path} is gone"
        return found

    @property
    def status(self) -> Manifest:
        return self.resource.get("status") or {}

    def condition(self, kind: str) -> Manifest:
        return condition(self.resource, kind)

    def pods(self, component: str = labels.COMPONENT_ENGINE) -> list[Manifest]:
        mine = f"{labels.DEPLOYMENT}={self.name},{labels.COMPONENT}={component}"
        return [pod for pod in self.kube.pods(self.namespace, mine) if not pod["metadata"].get("deletionTimestamp")]

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods()}

    def roles(self) -> Counter[str]:
        """Engines in service, by role."""
        return Counter(
            pod["metadata"]["labels"].get(labels.ROLE, "none")
            for pod in self.pods()
            if condition(pod, "Ready").get("status") == "True"
        )

    def children(self, kind: str) -> list[Manifest]:
        """Objects of a kind that belong to this deployment."""
        mine = f"{labels.DEPLOYMENT}={self.name}"
        return self.kube.items(CHILD_KINDS[kind].format(self.namespace), labelSelector=mine)

    def events(self) -> list[Manifest]:
        found = self.kube.items(f"/api/v1/namespaces/{self.namespace}/events")
        return [
            event
            for event in found
            if (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (KIND, self.name)
        ]

    # Waiting.

    def until(self, what: str, look: Callable[[], Any], *, seconds: float = 180) -> Any:
        return until(what, look, seconds=seconds, trouble=self.describe)

    def until_ready(self, *, seconds: float = 180) -> Scene:
        """Wait until the last change is observed and everything asked for is there."""

        def settled() -> bool:
            found = self.resource
            ready = condition(found, "Ready")
            return (
                ready.get("status") == "True"
                and ready.get("observedGeneration") == found["metadata"]["generation"]
                and (found.get("status") or {}).get("observedGeneration") == found["metadata"]["generation"]
            )

        self.until(f"{self.name} is Ready", settled, seconds=seconds)
        return self

    def until_condition(self, kind: str, status: str, reason: str | None = None, *, seconds: float = 180) -> Manifest:
        def found() -> Manifest | None:
            one = self.condition(kind)
            return one if one.get("status") == status and reason in {None, one.get("reason")} else None

        one: Manifest = self.until(f"{kind}={status} ({reason or 'any reason'})", found, seconds=seconds)
        return one

    def until_roles(self, *, seconds: float = 180, **counts: int) -> None:
        self.until(f"engines in service: {counts}", lambda: self.roles() == counts, seconds=seconds)

    def until_gone(self, *, seconds: float = 180) -> None:
        """Wait until nothing is left of the deployment."""

        def left() -> dict[str, list[str]]:
            found = {kind: [one["metadata"]["name"] for one in self.children(kind)] for kind in CHILD_KINDS}
            return {kind: names for kind, names in found.items() if names}

        until("nothing is left", lambda: not left() and self.kube.get(self.path) is None, seconds=seconds, trouble=left)

    def describe(self) -> dict[str, Any]:
        """For messages of failed tests."""
        found = self.kube.get(self.path) or {}
        status = found.get("status") or {}
        return {
            "generation": (found.get("metadata") or {}).get("generation"),
            "status": {key: value for key, value in status.items() if key != "conditions"},
            "conditions": [
                f"{one['type']}={one['status']} {one['reason']}: {one['message']}"
                for one in status.get("conditions", [])
            ],
            "workloads": {
                one["metadata"][
                    "name"
                ]: f"{one['spec'].get('replicas')} wanted, {(one.get('status') or {}).get('readyReplicas', 0)} ready"
                for one in self.children("Deployment")
            },
            "pods": {
                pod["metadata"]["name"]: " ".join(
                    (
                        pod["metadata"]["labels"].get(labels.ROLE, "no-role"),
                        pod["status"].get("phase", ""),
                        *(f"{one['type']}={one['status']}" for one in pod["status"].get("conditions", [])),
                        *(f"{key}={value}" for key, value in pod["metadata"].get("annotations", {}).items()),
                        "going" if pod["metadata"].get("deletionTimestamp") else "",
                    )
                )
                for pod in self.kube.pods(self.namespace, f"{labels.DEPLOYMENT}={self.name}")
            },
        }

    # Traffic.

    def router(self) -> str:
        """Address of a router that is in service."""
        ready = [pod for pod in self.pods(labels.COMPONENT_ROUTER) if condition(pod, "Ready").get("status") == "True"]
        assert ready, self.describe()
        return str(ready[0]["status"]["podIP"])

    def body(self, **changes: Any) -> dict[str, Any]:
        """Of a completion request."""
        model = self.manifest["spec"]["model"]
        return {
            "model": model.get("servedName", model["name"]),
            "prompt": "Once upon a time",
            "max_tokens": 8,
            **changes,
        }

    def complete(self, **changes: Any) -> httpx.Response:
        url = f"http://{self.router()}:8000/v1/completions"
        return httpx.post(url, json=self.body(**changes), timeout=60, trust_env=False)

    def patch_pod(self, name: str, body: Any) -> None:
        self.kube.ok("PATCH", f"/api/v1/namespaces/{self.namespace}/pods/{name}", body, content_type=MERGE)

    def delete_pod(self, name: str, *, grace_seconds: int | None = None) -> None:
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        self.kube.delete(f"/api/v1/namespaces/{self.namespace}/pods/{name}", **options)


def small(name: str) -> Manifest:
    """A deployment that costs little to run: engines on CPU nodes, one router, short drains."""
    manifest = minimal_manifest()
    manifest["metadata"]["name"] = name
    spec = manifest["spec"]
    spec["routing"] = {"replicas": 1}
    spec["engine"] = {"drainSeconds": 5, "startDeadlineSeconds": 60}
    # Tests of the planner turn it on; all others say themselves how many engines there are to be.
    spec.setdefault("scaling", {})["mode"] = "Off"
    return manifest
