"""The router's admin server: health, readiness, metrics, and what it believes of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec
from aiohttp import web

from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.prefixes.knowledge import Knowledge
from paceline_worker.router.wellness.listening import Sample

SHUTDOWN_SECONDS: Final = 1.0
SHOWN_NAME: Final = 200
"""Characters of an unknown engine's name that the error repeats."""


class Admin:
    """Serves operators and probes; the path of requests does not touch it."""

    def __init__(
        self,
        fleet: Fleet,
        knowledge: Knowledge,
        metrics: Metrics,
        is_draining: Callable[[], bool],
        *,
        holds: bool,
        samples: Collection[Sample] = (),
        more: Iterable[web.RouteDef] = (),
    ) -> None:
        self._fleet = fleet
        self._knowledge = knowledge
        self._metrics = metrics
        self._is_draining = is_draining
        self._holds = holds
        """Whether requests are held while there is no engine: then a router without one serves all the same."""
        self._samples = samples
        self._more = tuple(more)
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Bind and serve. Raises OSError when the address can't be bound."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._page),
                web.get("/fleet", self._describe),
                web.get("/output-samples", self._output_samples),
                web.get("/index", self._index),
                web.get("/index/{engine}", self._index_of),
                *self._more,
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        usable = sum(engine.usable for engine in self._fleet)
        if self._is_draining():
            state, reason = "draining", "shutting down"
        elif usable == 0 and self._holds and self._fleet.asleep:
            state, reason = "ready", "there is no engine yet; requests are held until one has started"
        elif usable == 0:
            state, reason = "waiting", f"none of {len(self._fleet)} engines is usable"
        else:
            state, reason = "ready", f"{usable} of {len(self._fleet)} engines are usable"
        return _json({"state": state, "reason": reason}, status=200 if state == "ready" else 503)

    async def _page(self, request: web.Request) -> web.Response:
        page, content_type = self._metrics.render_for(request.headers.get("accept", ""))
        return web.Response(body=page, headers={"content-type": content_type})

    async def _describe(self, _: web.Request) -> web.Response:
        return _json({"version": self._fleet.version, "engines": [_engine(engine) for engine in self._fleet]})

    async def _output_samples(self, _: web.Request) -> web.Response:
        """Ends of suspicious answers; none unless the configuration keeps some."""
        return _json({"samples": list(self._samples)})

    async def _index(self, _: web.Request) -> web.Response:
        engines = [
            {
                "name": engine.name,
                "mode": self._knowledge.mode(engine),
                "blocks": self._knowledge.told(engine),
                "stalenessSeconds": self._knowledge.staleness(engine),
            }
            for engine in self._fleet
        ]
        index = self._knowledge.index
        return _json({"entries": index.entries, "blocks": index.blocks, "engines": engines})

    async def _index_of(self, request: web.Request) -> web.Response:
        """All blocks of one engine by its own names: large, and for a person or a test that wants to know."""
        name = request.match_info["engine"]
        engine = self._fleet.engines.get(name)
        if engine is None:
            return _json({"error": f"there is no engine {name[:SHOWN_NAME]}"}, status=404)
        return _json(self._knowledge.names(engine))


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")


def _engine(engine: Engine) -> dict[str, object]:
    endpoint = engine.endpoint
    return {
        "name": endpoint.name,
        "address": f"{endpoint.host}:{endpoint.port}",
        "role": endpoint.role,
        "state": endpoint.state,
        "usable": engine.usable,
        "answers": engine.health.usable,
        "suspended": engine.suspended,
        "ejections": engine.health.ejections,
        "startId": endpoint.start_id,
        "revision": endpoint.revision,
        "running": engine.running,
        "prefilling": engine.prefilling,
        "contextTokens": engine.context_tokens,
        "prefillBacklogSeconds": round(engine.backlog_seconds, 6),
        "reportedRequests": engine.reported.requests,
        "kvUsage": engine.reported.kv_usage,
    }
