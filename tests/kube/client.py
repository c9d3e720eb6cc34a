"""Just enough of a client to send manifests as they are, to read what the server makes of them, and to wait for it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from kubernetes import client, config

from paceline.api.labels import API_VERSION, PLURAL

T = TypeVar("T")
Manifest = dict[str, Any]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
POLL_SECONDS = 0.1
PLURALS = {"networkpolicy": "networkpolicies"}


@dataclass(frozen=True)
class Access:
    """How to reach an API server as somebody."""

    server: str
    trust: ssl.SSLContext
    authority: bytes
    """Certificate of who signed the server's, as PEM."""
    headers: dict[str, str]


def access(kubeconfig: Path) -> Access:
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    trust = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        trust.load_cert_chain(settings.cert_file, settings.key_file)
    headers = {"Authorization": token} if (token := settings.get_api_key_with_prefix("authorization")) else {}
    authority = Path(settings.ssl_ca_cert).read_bytes() if settings.ssl_ca_cert else b""
    return Access(settings.host, trust, authority, headers)


@contextmanager
def connect(kubeconfig: Path) -> Iterator[Kube]:
    to = access(kubeconfig)
    with httpx.Client(base_url=to.server, verify=to.trust, headers=to.headers, timeout=30, trust_env=False) as http:
        yield Kube(http)


def root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def plural(kind: str) -> str:
    return PLURALS.get(kind.lower(), f"{kind.lower()}s")


def collection(manifest: Manifest, namespace: str) -> str:
    """Path of the collection that a namespaced manifest belongs to."""
    return f"{root(manifest['apiVersion'])}/namespaces/{namespace}/{plural(manifest['kind'])}"


class Kube:
    """A client with the rights of its kubeconfig."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str = "application/json",
        content_type: str = "application/json",
        **query: str,
    ) -> tuple[int, Any]:
        """Status and answer, whatever the status is; a kind that isn't served yet answers in plain text."""
        headers = {"Accept": accept, "Content-Type": content_type}
        response = self.http.request(method, path, json=body, params=query, headers=headers)
        is_json = "json" in response.headers.get("content-type", "")
        return response.status_code, response.json() if is_json else response.text

    def ok(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: str
    ) -> Any:
        """The answer to a request that must succeed."""
        status, answer = self.request(method, path, body, content_type=content_type, **query)
        assert status in {200, 201, 202}, (method, path, status, answer)
        return answer

    def create(self, manifest: Manifest, namespace: str, **query: str) -> tuple[int, Any]:
        """Send one manifest; unknown fields are errors where the server can tell."""
        manifest = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
        path = collection(manifest, namespace)
        return self.request("POST", path, manifest, fieldValidation="Strict", **query)

    def apply(self, manifest: Manifest, namespace: str, *, manager: str = "tester") -> Any:
        """Server-side apply, as ``kubectl apply --server-side`` does."""
        path = f"{collection(manifest, namespace)}/{manifest['metadata']['name']}"
        return self.ok("PATCH", path, manifest, content_type=APPLY, fieldManager=manager, force="true")

    def items(self, path: str, **query: str) -> list[Manifest]:
        found: list[Manifest] = self.ok("GET", path, **query)["items"]
        return found

    def get(self, path: str) -> Manifest | None:
        """One object, or None when there is none."""
        status, answer = self.request("GET", path)
        assert status in {200, 404}, (path, status, answer)
        return answer if status == 200 else None

    def delete(self, path: str, **options: Any) -> None:
        status, answer = self.request("DELETE", path, options or None)
        assert status in {200, 202, 404}, (path, status, answer)

    def pods(self, namespace: str, selector: str = "") -> list[Manifest]:
        query = {"labelSelector": selector} if selector else {}
        return self.items(f"/api/v1/namespaces/{namespace}/pods", **query)


def model_path(namespace: str, name: str = "") -> str:
    base = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}"
    return f"{base}/{name}" if name else base


def until(what: str, look: Callable[[], T], *, seconds: float = 180, trouble: Callable[[], object] | None = None) -> T:
    """The first answer of ``look`` that is true. A failure tells what was waited for and what there was instead."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            shown = trouble() if trouble is not None else found
            text = shown if isinstance(shown, str) else yaml.safe_dump(shown, sort_keys=False)
            raise AssertionError(f"Not within {seconds:g} s: {what}. Last seen:\n{text}")
        time.sleep(POLL_SECONDS)
    return found


def condition(resource: Manifest | None, kind: str) -> Manifest:
    """A condition of an object; empty where it has none of that kind."""
    found = ((resource or {}).get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})
