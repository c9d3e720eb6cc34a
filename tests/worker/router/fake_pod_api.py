"""The pods' part of a Kubernetes API server: lists, watches, and what goes wrong with them when a test says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web


def pod(
    name: str,
    *,
    role: str | None = "decode",
    ready: bool = True,
    draining: bool = False,
    going: bool = False,
    phase: str = "Running",
    ip: str = "127.0.9.9",
    restarts: int = 0,
    revision: str = "r1",
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "labels": {"paceline.dev/revision": revision, "topology.kubernetes.io/zone": "zone-a"},
            "managedFields": [{"manager": "somebody"}],
        },
        "spec": {
            "nodeName": "gpu-a",
            "containers": [
                {"name": "sidecar", "ports": [{"name": "api", "containerPort": 1}]},
                {
                    "name": "engine",
                    "ports": [
                        {"name": "api", "containerPort": 8000},
                        {"name": "kv-events", "containerPort": 20080},
                        {"name": "kv-replay", "containerPort": 21080},
                    ],
                },
            ],
        },
        "status": {
            "phase": phase,
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "engine", "restartCount": restarts}],
        },
    }
    metadata = found["metadata"]
    if role is not None:
        metadata["labels"]["paceline.dev/role"] = role
    if draining:
        metadata["annotations"] = {"paceline.dev/drain": "true"}
    if going:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return found


class FakePodApi:
    """Holds pods; a change reaches those who watch."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 1
        self.lists = 0
        self.queries: list[dict[str, str]] = []
        self.tokens: list[str] = []
        self.answer: tuple[int, dict[str, str]] | None = None
        """Status and headers of every answer, instead of the right one."""
        self.page_size = 1000
        self._watchers: list[asyncio.Queue[bytes | None]] = []
        self._runner: web.AppRunner | None = None
        self.watched = asyncio.Event()
        self.asked = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/api/v1/namespaces/{namespace}/pods", self._get)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()

    def put(self, *pods: dict[str, Any]) -> None:
        for one in pods:
            name = one["metadata"]["name"]
            self._say("MODIFIED" if name in self.pods else "ADDED", one)
            self.pods[name] = one

    def remove(self, name: str) -> None:
        self._say("DELETED", self.pods.pop(name))

    def bookmark(self) -> None:
        self.version += 1
        self.send({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}})

    def send(self, document: Any) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(json.dumps(document).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(data)

    def end_watches(self) -> None:
        """In good order, as the server does after timeoutSeconds."""
        for watcher in self._watchers:
            watcher.put_nowait(None)

    def _say(self, kind: str, one: dict[str, Any]) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        self.send({"type": kind, "object": one})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        self.tokens.append(request.headers.get("Authorization", ""))
        self.asked.set()
        if self.answer is not None:
            status, headers = self.answer
            return web.Response(status=status, headers=headers, text='{"kind":"Status","message":"no"}')
        return await self._watch(request) if request.query.get("watch") else self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        self.lists += 1
        first = int(request.query.get("continue", "0"))
        items = list(self.pods.values())
        metadata = {"resourceVersion": str(self.version)}
        if first + self.page_size < len(items):
            metadata["continue"] = str(first + self.page_size)
        return web.json_response({"metadata": metadata, "items": items[first : first + self.page_size] or None})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        mine: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._watchers.append(mine)
        self.watched.set()
        try:
            while (data := await mine.get()) is not None:
                await response.write(data)
        finally:
            self._watchers.remove(mine)
        return response
