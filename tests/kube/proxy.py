"""Stands between an operator and the API server, and lets a test spoil what passes through."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from tests.kube.client import access

CLOSING_SECONDS = 0.25
HOP_BY_HOP = {"transfer-encoding", "content-length", "content-encoding", "connection", "host", "accept-encoding"}


@dataclass(frozen=True)
class Ask:
    """A request that passes through."""

    method: str
    path: str
    watch: bool

    @property
    def writes(self) -> bool:
        return self.method != "GET"


@dataclass(frozen=True)
class Refuse:
    """Answer this instead of asking the server."""

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Expire:
    """Take the watch, then say that its version is too old."""


Spoil = Callable[[Ask], Refuse | Expire | None]


class Proxy:
    """Runs on a thread of its own. ``spoil`` may be replaced at any time; it is called on that thread."""

    def __init__(self, kubeconfig: Path) -> None:
        self._access = access(kubeconfig)
        self.spoil: Spoil = lambda ask: None
        self.spoiled = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="proxy", daemon=True)
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._watches: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def break_watches(self) -> None:
        """Cut every watch that is open now in the middle."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._watches])

    def kubeconfig(self, original: Path, folder: Path) -> Path:
        """The same credentials, through here."""
        document = yaml.safe_load(original.read_text())
        document["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path = folder / "proxied-kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._access.trust, limit=0)
        # The credentials are those of whoever asks, so none of the proxy's own.
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            app = web.Application(client_max_size=64 * 1024 * 1024)

            async def answer(request: web.Request) -> web.StreamResponse:
                return await self._pass(request, http)

            app.router.add_route("*", "/{tail:.*}", answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()
        # A closed session leaves its TLS connections to end by themselves.
        await asyncio.sleep(CLOSING_SECONDS)

    async def _pass(self, request: web.Request, http: aiohttp.ClientSession) -> web.StreamResponse:
        ask = Ask(request.method, request.path, request.query.get("watch") in {"true", "1"})
        spoiled = self.spoil(ask)
        if isinstance(spoiled, Refuse):
            self.spoiled += 1
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": spoiled.status,
                      "reason": spoiled.reason, "message": "spoiled by the test"}  # fmt: skip
            return web.json_response(status, status=spoiled.status, headers=dict(spoiled.headers))
        response = web.StreamResponse()
        if isinstance(spoiled, Expire):
            self.spoiled += 1
            await response.prepare(request)
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        timeout = aiohttp.ClientTimeout(total=None)
        me = asyncio.current_task()
        assert me is not None
        if ask.watch:
            self._watches.add(me)
        try:
            async with http.request(
                request.method, f"{self._access.server}{request.raw_path}", data=await request.read() or None,
                headers=headers, timeout=timeout,
            ) as answer:  # fmt: skip
                response.set_status(answer.status)
                for key, value in answer.headers.items():
                    if key.lower() not in HOP_BY_HOP:
                        response.headers[key] = value
                await response.prepare(request)
                with suppress(ConnectionResetError):
                    async for piece in answer.content.iter_any():
                        await response.write(piece)
        except aiohttp.ClientError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watches.discard(me)
        return response
