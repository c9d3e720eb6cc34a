"""Stand-ins for the API server: one in memory that passes talk to, one over HTTP for the client's own tests."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import kopf
from aiohttp import web

from paceline.controller.api import APPLY, Fence, Json, WatchEvent
from paceline.controller.kinds import Kind
from paceline.controller.refusals import ApiError, Conflict, Gone, NotFound


class FakeApi:
    """Objects by path. Writes, watches and versions behave as a real server's as far as the operator can tell."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.writes: list[tuple[str, str]] = []
        self.refusals: list[Callable[[str, str], ApiError | None]] = []
        """Asked before every request, by verb and path."""
        self.changed = asyncio.Event()
        self.log: list[tuple[int, str, Json]] = []
        self._version = 0

    def put(self, kind: Kind, manifest: Json) -> Json:
        """Somebody else writes an object."""
        metadata = manifest["metadata"]
        return self._store(kind.path(metadata["namespace"], metadata["name"]), copy.deepcopy(manifest))

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Somebody else deletes an object."""
        path = kind.path(namespace, name)
        self._version += 1
        self._tell("DELETED", path, self.objects.pop(path))

    async def get(self, path: str, *, resource: str, **query: str) -> Json:
        self._refuse("get", path)
        if path not in self.objects:
            raise NotFound("get", resource, 404, "NotFound", path)
        return copy.deepcopy(self.objects[path])

    async def list(self, path: str, *, resource: str, selector: str = "") -> tuple[list[Json], str]:
        self._refuse("list", path)
        items = [copy.deepcopy(found) for where, found in self.objects.items() if _is_in(where, path)]
        return items, str(self._version)

    async def watch(self, path: str, *, resource: str, version: str, selector: str = "") -> AsyncIterator[WatchEvent]:
        self._refuse("watch", path)
        told = int(version)
        while True:
            for at, where, event in self.log:
                if at > told and _is_in(where, path):
                    yield WatchEvent(event["type"], copy.deepcopy(event["object"]))
            told = self._version
            self.changed.clear()
            await self.changed.wait()
            self._refuse("watch", path)

    async def create(self, path: str, body: Json, *, resource: str, fence: Fence | None = None) -> Json:
        _ask(fence)
        where = f"{path}/{body['metadata']['name']}"
        self._refuse("create", where)
        if where in self.objects:
            raise Conflict("create", resource, 409, "AlreadyExists", where)
        self.writes.append(("create", where))
        return self._store(where, copy.deepcopy(body))

    async def replace(self, path: str, body: Json, *, resource: str) -> Json:
        self._refuse("update", path)
        if self.objects[path]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict("update", resource, 409, "Conflict", path)
        self.writes.append(("update", path))
        return self._store(path, copy.deepcopy(body))

    async def patch(
        self, path: str, body: Json, *, resource: str, content_type: str = "", fence: Fence | None = None, **query: str
    ) -> Json:
        _ask(fence)
        verb = "apply" if content_type == APPLY else "patch"
        self._refuse(verb, path)
        where = path.removesuffix("/status")
        if where not in self.objects and verb != "apply":
            raise NotFound(verb, resource, 404, "NotFound", path)
        self.writes.append((verb, path))
        return self._store(where, _merged(self.objects.get(where, {}), body))

    async def delete(self, path: str, *, resource: str, uid: str | None = None, fence: Fence | None = None) -> None:
        _ask(fence)
        self._refuse("delete", path)
        found = self.objects.get(path)
        if found is None:
            raise NotFound("delete", resource, 404, "NotFound", path)
        if uid not in {None, found["metadata"]["uid"]}:
            raise Conflict("delete", resource, 409, "Conflict", path)
        self.writes.append(("delete", path))
        self._version += 1
        self._tell("DELETED", path, self.objects.pop(path))

    def expire(self) -> None:
        """Every watch that runs is told that its version is too old; later ones work."""
        told = False

        def refuse(verb: str, path: str) -> ApiError | None:
            nonlocal told
            if verb != "watch" or told:
                return None
            told = True
            return Gone("watch", path, 410, "Expired", "too old")

        self.refusals.append(refuse)
        self.changed.set()

    def _refuse(self, verb: str, path: str) -> None:
        for refuse in self.refusals:
            if (error := refuse(verb, path)) is not None:
                raise error

    def _store(self, path: str, manifest: Json) -> Json:
        self._version += 1
        known = path in self.objects
        metadata = manifest["metadata"]
        metadata.setdefault("uid", f"uid-{self._version}")
        metadata["resourceVersion"] = str(self._version)
        self.objects[path] = manifest
        self._tell("MODIFIED" if known else "ADDED", path, manifest)
        return copy.deepcopy(manifest)

    def _tell(self, kind: str, path: str, manifest: Json) -> None:
        self.log.append((self._version, path, {"type": kind, "object": copy.deepcopy(manifest)}))
        self.changed.set()


def _ask(fence: Fence | None) -> None:
    if fence is not None:
        fence()


def _is_in(path: str, collection: str) -> bool:
    """Whether the object at ``path`` belongs to the collection, of a namespace or of all."""
    root, _, plural = collection.rpartition("/")
    return path.startswith(f"{root}/") and path.rpartition("/")[0].endswith(f"/{plural}")


def _merged(before: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(before, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(before)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key, {} if isinstance(value, dict) else None), value)
    return result


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(answer: Answer) -> AsyncIterator[kopf.ConnectionInfo]:
    """An API server whose every answer is ``answer``'s."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield kopf.ConnectionInfo(server=f"http://127.0.0.1:{port}", token="first")
    finally:
        await runner.cleanup()
