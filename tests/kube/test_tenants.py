"""Tenants in a cluster: from Secrets to the router's pod, and from there to who is let in."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from paceline.api import labels
from paceline.api.v1alpha1 import from_manifest
from paceline.policy.resources import children
from tests.api.documents import minimal_manifest
from tests.kube.client import Kube, condition, until
from tests.kube.kubelet import Kubelet
from tests.kube.test_router_discovery import KINDS, Served

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

TENANTS = ("chat", "batch")


def put(kube: Kube, namespace: str, tenant: str, *keys: str) -> None:
    data = {"keys": base64.b64encode("\n".join(keys).encode()).decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{tenant}-keys"}, "data": data}
    kube.apply({**secret, "metadata": {**secret["metadata"], "namespace": namespace}}, namespace)  # type: ignore[dict-item]


def ask(served: Served, key: str) -> int:
    try:
        return httpx.post(
            f"http://{served.router()}:8000/v1/completions",
            json={"model": "Qwen/Qwen3-32B", "prompt": "Once upon a time", "max_tokens": 4},
            headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False,
        ).status_code  # fmt: skip
    except httpx.TransportError:
        return 0


def test_keys_go_from_secrets_to_routers_and_change_there_without_a_restart(
    kube: Kube, kubelet: Kubelet, namespace: str
) -> None:
    kubelet.run_processes(namespace)
    put(kube, namespace, "chat", "the-first-key-of-chat")
    manifest: dict[str, Any] = minimal_manifest()
    manifest["metadata"]["namespace"] = namespace
    manifest["spec"] |= {
        "routing": {"replicas": 1},
        "tenancy": {
            "mode": "ApiKeys",
            "tenants": [{"name": one, "apiKeysSecret": {"name": f"{one}-keys", "key": "keys"}} for one in TENANTS],
        },
    }
    md = from_manifest(manifest, "test")
    for child in children(md, replicas={"flexible": 1}, kinds=KINDS).manifests():
        kube.apply(child, namespace)
    served = Served(kube, md)
    until(
        "an engine with ready containers",
        lambda: [condition(pod, "ContainersReady").get("status") for pod in served.pods("engine")] == ["True"],
        trouble=lambda: [pod["status"] for pod in served.pods("engine")],
    )
    served.open(served.pods("engine")[0], "decode")
    until("chat is served, though batch has no Secret", lambda: ask(served, "the-first-key-of-chat") == 200)
    (before,) = served.pods("router")
    assert ask(served, "the-first-key-of-batch") == 401

    put(kube, namespace, "batch", "the-first-key-of-batch")
    until("batch has a Secret", lambda: ask(served, "the-first-key-of-batch") == 200)
    put(kube, namespace, "chat", "the-first-key-of-chat", "the-second-key-of-chat")
    until("chat has two keys", lambda: ask(served, "the-second-key-of-chat") == 200)
    assert ask(served, "the-first-key-of-chat") == 200
    put(kube, namespace, "chat", "the-second-key-of-chat")
    until("the first is no key any more", lambda: ask(served, "the-first-key-of-chat") == 401)
    kube.delete(f"/api/v1/namespaces/{namespace}/secrets/batch-keys")
    until("the keys went with their Secret", lambda: ask(served, "the-first-key-of-batch") == 401)
    assert ask(served, "the-second-key-of-chat") == 200

    (after,) = served.pods("router")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"][labels.COMPONENT] == "router"
    log = next(kubelet._logs.glob(f"{namespace}.{after['metadata']['name']}.log")).read_text()
    assert "key-of-chat" not in log
