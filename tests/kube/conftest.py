"""Fixtures of the tests against a real API server: the server, a client, the installed CRD, and a namespace."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from kubernetes import client, config

from paceline.api.labels import GROUP, PLURAL, VERSION
from tests.api.documents import ROOT
from tests.kube.cluster import HOW_TO_GET_ONE, api_server

CRD_SECONDS = 60
CONSECUTIVE = 5
"""Good answers in a row after which a new kind counts as served: before, answers come and go."""


class Kube:
    """Just enough of a client to send manifests as they are and to read what the server makes of them."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def request(
        self, method: str, path: str, body: Any = None, *, accept: str = "application/json", **query: str
    ) -> tuple[int, Any]:
        """Status and answer, whatever the status is; a kind that isn't served yet answers in plain text."""
        response = self.http.request(method, path, json=body, params=query, headers={"Accept": accept})
        is_json = "json" in response.headers.get("content-type", "")
        return response.status_code, response.json() if is_json else response.text

    def create(self, manifest: dict[str, Any], namespace: str, **query: str) -> tuple[int, Any]:
        """Send one manifest; unknown fields are errors where the server can tell."""
        manifest = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
        path = collection(manifest, namespace)
        return self.request("POST", path, manifest, fieldValidation="Strict", **query)


def collection(manifest: dict[str, Any], namespace: str) -> str:
    """Path of the collection that a namespaced manifest belongs to."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{prefix}/namespaces/{namespace}/{kind.lower()}s"


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig with all rights."""
    with api_server(tmp_path_factory.mktemp("kube")) as path:
        if path is None:
            pytest.skip(HOW_TO_GET_ONE)
        yield path


@pytest.fixture(scope="session")
def kube(kubeconfig: Path) -> Iterator[Kube]:
    """A client of the API server, with the CRD installed and served."""
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    trust = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        trust.load_cert_chain(settings.cert_file, settings.key_file)
    headers = {"Authorization": token} if (token := settings.get_api_key_with_prefix("authorization")) else {}
    with httpx.Client(base_url=settings.host, verify=trust, headers=headers, timeout=30, trust_env=False) as http:
        found = Kube(http)
        install_crd(found)
        yield found


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    status, answer = kube.request("POST", "/api/v1/namespaces", body)
    assert status == 201, answer
    yield name
    kube.request("DELETE", f"/api/v1/namespaces/{name}")


def install_crd(kube: Kube) -> None:
    """Install the committed CRD and wait until the server answers for it."""
    crd = yaml.safe_load((ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml").read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    status, answer = kube.request("POST", path, crd)
    if status == 409:
        _, current = kube.request("GET", f"{path}/{crd['metadata']['name']}")
        crd["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
        status, answer = kube.request("PUT", f"{path}/{crd['metadata']['name']}", crd)
    assert status in {200, 201}, answer
    deadline = time.monotonic() + CRD_SECONDS
    served = 0
    while served < CONSECUTIVE:
        status, answer = kube.request("GET", f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        served = served + 1 if status == 200 else 0
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
