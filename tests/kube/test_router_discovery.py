"""A router in a cluster, without an operator: the children are applied by hand, and so are roles and gates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment, from_manifest
from paceline.policy.resources import OPTIONAL_KINDS, children
from tests.api.documents import minimal_manifest
from tests.kube.client import STRATEGIC, Kube, Manifest, condition, until
from tests.kube.kubelet import Kubelet
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

KINDS = OPTIONAL_KINDS - {"policy/v1/PodDisruptionBudget", "monitoring.coreos.com/v1/PodMonitor"}


@dataclass
class Served:
    """A deployment of two engines and one router."""

    kube: Kube
    md: ModelDeployment

    @property
    def namespace(self) -> str:
        return self.md.metadata.namespace

    def pods(self, component: str) -> list[Manifest]:
        return self.kube.pods(self.namespace, f"{labels.COMPONENT}={component}")

    def open(self, pod: Manifest, role: str) -> None:
        """What the operator does for a ready engine."""
        self.patch(pod, {"metadata": {"labels": {labels.ROLE: role}}})
        self.gate(pod, "True")

    def gate(self, pod: Manifest, status: str) -> None:
        body = {"status": {"conditions": [{"type": labels.SERVING_GATE, "status": status}]}}
        self.patch(pod, body, "/status")

    def patch(self, pod: Manifest, body: Any, subresource: str = "") -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}{subresource}"
        self.kube.ok("PATCH", path, body, content_type=STRATEGIC)

    def router(self) -> str:
        (pod,) = self.pods("router")
        return str(pod["status"]["podIP"])

    def believes(self) -> dict[str, str]:
        """Role and state of each engine, as the router sees it."""
        try:
            fleet = httpx.get(f"http://{self.router()}:8080/fleet", timeout=5, trust_env=False).json()
        except httpx.TransportError:
            return {}
        return {one["name"]: f"{one['role']} {one['state']}" for one in fleet["engines"]}

    def complete(self) -> httpx.Response:
        body = {"model": "Qwen/Qwen3-32B", "prompt": "Once upon a time", "max_tokens": 4}
        return httpx.post(f"http://{self.router()}:8000/v1/completions", json=body, timeout=30, trust_env=False)


@pytest.fixture
def served(kube: Kube, testbed: TestBed, kubelet: Kubelet, namespace: str) -> Iterator[Served]:
    kubelet.run_processes(namespace)
    manifest = minimal_manifest()
    manifest["metadata"]["namespace"] = namespace
    manifest["spec"]["routing"] = {"replicas": 1}
    md = from_manifest(manifest, "test")
    for child in children(md, replicas={"flexible": 2}, kinds=KINDS).manifests():
        kube.apply(child, namespace)
    found = Served(kube, md)
    until(
        "two engines with ready containers",
        lambda: sum(condition(pod, "ContainersReady").get("status") == "True" for pod in found.pods("engine")) == 2,
        trouble=lambda: [pod["status"] for pod in found.pods("engine")],
    )
    return found


def test_a_router_sends_work_to_pods_that_are_in_service_and_to_no_others(served: Served) -> None:
    one, other = served.pods("engine")
    first, second = one["metadata"]["name"], other["metadata"]["name"]
    assert served.believes() == {}

    served.open(one, "prefill")
    until("the prefill engine", lambda: served.believes() == {first: "prefill ready"}, trouble=served.believes)
    served.open(other, "decode")
    until(
        "both engines",
        lambda: served.believes() == {first: "prefill ready", second: "decode ready"},
        trouble=served.believes,
    )
    answer = served.complete()
    assert answer.status_code == 200, answer.text

    served.patch(one, {"metadata": {"labels": {labels.ROLE: "decode"}}})
    until("another role", lambda: served.believes()[first] == "decode ready", trouble=served.believes)

    served.patch(one, {"metadata": {"annotations": {labels.DRAIN: "true"}}})
    until("the drain", lambda: served.believes()[first] == "decode draining", trouble=served.believes)
    served.gate(one, "False")
    served.kube.delete(f"/api/v1/namespaces/{served.namespace}/pods/{first}")
    until("its end", lambda: first not in served.believes(), trouble=served.believes)
    assert served.complete().status_code == 200


def test_a_container_that_restarts_is_another_engine(served: Served, kubelet: Kubelet) -> None:
    one, other = served.pods("engine")
    served.open(one, "decode")
    served.open(other, "decode")
    until("both", lambda: list(served.believes().values()) == ["decode ready"] * 2, trouble=served.believes)

    def start_id() -> str:
        fleet = httpx.get(f"http://{served.router()}:8080/fleet", timeout=5, trust_env=False).json()
        return str(next(e["startId"] for e in fleet["engines"] if e["name"] == one["metadata"]["name"]))

    before = start_id()
    kubelet.kill(served.namespace, one["metadata"]["name"])
    until("a new start", lambda: start_id() != before)
    until("both again", lambda: list(served.believes().values()) == ["decode ready"] * 2, trouble=served.believes)
    assert served.complete().status_code == 200


def test_the_fleet_outlives_the_api_server(served: Served, testbed: TestBed) -> None:
    one, other = served.pods("engine")
    served.open(one, "decode")
    until("one engine", lambda: list(served.believes().values()) == ["decode ready"], trouble=served.believes)
    testbed.restart("apiserver")
    address = other["status"]["podIP"]
    assert address
    until("the server", lambda: _answers(served.kube), seconds=180)
    until("the router", lambda: served.complete().status_code == 200)
    served.open(other, "prefill")
    until("the other engine", lambda: len(served.believes()) == 2, trouble=served.believes)


def _answers(kube: Kube) -> bool:
    try:
        return kube.request("GET", "/readyz")[0] == 200
    except httpx.TransportError:
        return False
