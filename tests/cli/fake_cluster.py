"""An API server that commands of the command line can ask: objects in a dict, over HTTP, with a kubeconfig to it.

As small as the commands allow: reads, lists with label selectors, merge patches of annotations. ``reacts`` is called
after each request, and is where a test plays the operator.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from paceline.api import labels

Json = dict[str, Any]

NOW = "Sat, 21 Nov 2026 12:00:00 GMT"
"""The server's clock stands still: ages in tests are exact."""
NAMESPACE = "prod"
MODELS = f"/apis/{labels.API_VERSION}"


def at(seconds_ago: int) -> str:
    """A time as the API server writes it."""
    minutes, seconds = divmod(12 * 3600 - seconds_ago, 60)
    return f"2026-11-21T{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}Z"


class FakeCluster:
    """Objects by path."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.objects: dict[str, Json] = {}
        self.patches: list[tuple[str, Json, dict[str, list[str]]]] = []
        self.refusal: tuple[int, Json] | None = None
        """What every request is answered with, in place of the objects."""
        self.reacts: Callable[[], None] = lambda: None
        self.crd = True
        self.tokens: set[str] = set()
        """Who has asked."""
        self._version = 0

    def kubeconfig(self, folder: Path, *, namespace: str | None = NAMESPACE) -> Path:
        """A file that leads here."""
        context: Json = {"cluster": "fake", "user": "me"} | ({} if namespace is None else {"namespace": namespace})
        path = folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "here",
                    "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
                    "users": [{"name": "me", "user": {"token": "secret-token"}}],
                    "contexts": [
                        {"name": "here", "context": context},
                        {"name": "there", "context": {**context, "namespace": "elsewhere"}},
                    ],
                }
            )
        )  # fmt: skip
        return path

    def put(self, path: str, **fields: Any) -> Json:
        """Make or replace an object; its place says its name and namespace."""
        parts = path.split("/")
        self._version += 1
        metadata = {"name": parts[-1], "uid": f"uid-{parts[-1]}", "resourceVersion": str(self._version)}
        if "namespaces" in parts:
            metadata["namespace"] = parts[parts.index("namespaces") + 1]
        self.objects[path] = {**fields, "metadata": {**metadata, **fields.get("metadata", {})}}
        return self.objects[path]

    def deployment(
        self, name: str, *, namespace: str = NAMESPACE, spec: Json, status: Json | None, **meta: Any
    ) -> Json:
        return self.put(
            f"{MODELS}/namespaces/{namespace}/{labels.PLURAL}/{name}",
            apiVersion=labels.API_VERSION, kind=labels.KIND, spec=spec,
            metadata={"generation": 1, "creationTimestamp": at(3600), **meta}, **({"status": status} if status else {}),
        )  # fmt: skip

    def pod(self, name: str, *, metadata: Json, spec: Json, status: Json, namespace: str = NAMESPACE) -> Json:
        return self.put(
            f"/api/v1/namespaces/{namespace}/pods/{name}", apiVersion="v1", kind="Pod",
            metadata=metadata, spec=spec, status=status,
        )  # fmt: skip

    def answer(self, verb: str, target: str, body: bytes) -> tuple[int, Json]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        try:
            if self.refusal is not None:
                return self.refusal
            if path.startswith(MODELS) and not self.crd:
                return 404, {"kind": "Status", "message": "the server could not find the requested resource"}
            if verb == "PATCH":
                return self._patch(path, json.loads(body), query)
            return self._get(path, query)
        finally:
            self.reacts()

    def _get(self, path: str, query: dict[str, list[str]]) -> tuple[int, Json]:
        if path == MODELS:
            return 200, {"resources": [{"name": labels.PLURAL}]}
        if path in self.objects:
            return 200, self.objects[path]
        last = path.rpartition("/")[2]
        if last not in {"pods", "events", labels.PLURAL}:
            status = {"kind": "Status", "details": {"name": last, "kind": "x"}, "message": f'"{last}" not found'}
            return 404, status
        pairs = [pair.split("=") for pair in query.get("labelSelector", [""])[0].split(",") if pair]
        return 200, {"items": [one for at, one in self.objects.items() if _within(at, path) and _carries(one, pairs)]}

    def _patch(self, path: str, body: Json, query: dict[str, list[str]]) -> tuple[int, Json]:
        self.patches.append((path, body, query))
        found = self.objects[path]
        assert body["metadata"]["uid"] == found["metadata"]["uid"]
        notes = found["metadata"].setdefault("annotations", {})
        notes.update(body["metadata"]["annotations"])
        return 200, found


def _within(path: str, collection: str) -> bool:
    """Whether an object is of a collection, of a namespace or of all."""
    root, _, kind = collection.rpartition("/")
    return path.startswith(f"{root}/") and path.split("/")[-2] == kind


def _carries(one: Json, pairs: list[list[str]]) -> bool:
    found = one["metadata"].get("labels", {})
    return all(found.get(key) == value for key, value in pairs)


@contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """Serve one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: two would wait for each other's acknowledgement

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            cluster.tokens.add(self.headers["authorization"])
            status, document = cluster.answer(self.command, self.path, body)
            content = json.dumps(document).encode()
            self.send_response_only(status)
            for name, value in (("Date", NOW), ("Content-Type", "application/json"), ("Content-Length", len(content))):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._serve()

        def do_PATCH(self) -> None:
            self._serve()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster = FakeCluster(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
