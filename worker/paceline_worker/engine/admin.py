"""The worker's own HTTP server: probes, state, metrics and the drain switch. Called by the worker.

It answers while the engine loads, hangs or is gone, which the engine's own server can't.
"""

from __future__ import annotations

from aiohttp import web

from paceline.errors import EngineError
from paceline_worker.engine.client import EngineClient
from paceline_worker.engine.metrics import CONTENT_TYPE, EngineMetrics
from paceline_worker.engine.status import EngineStatus, State


class AdminServer:
    """``/healthz``, ``/readyz``, ``/state``, ``/metrics`` and ``POST /drain``."""

    def __init__(self, status: EngineStatus, metrics: EngineMetrics, client: EngineClient) -> None:
        self._status = status
        self._metrics = metrics
        self._client = client
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/state", self._state),
                web.get("/metrics", self._render_metrics),
                web.post("/drain", self._drain),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises EngineError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, shutdown_timeout=1).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EngineError(
                f"The admin server can't listen on {host}:{port} (ports.admin): {error.strerror}."
            ) from None

    async def stop(self) -> None:
        """Stop listening and close its connections."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        status = self._status
        document = {"state": status.state.value, "reason": status.why}
        return web.json_response(document, status=200 if status.ready else 503)

    async def _state(self, _: web.Request) -> web.Response:
        status = self._status
        held = False
        if status.state in (State.READY, State.DRAINING):
            load = await self._client.load()
            status.in_flight = None if load is None else load.in_flight
            # Blocks that are in use while nothing runs are kept for a decode engine that has not fetched them yet.
            held = load is not None and load.in_flight == 0 and load.cache_use > 0
        return web.json_response(
            {
                "state": status.state.value,
                "reason": status.reason,
                "startId": status.start_id,
                "pid": status.pid,
                "inFlight": status.in_flight,
                "heldBlocks": held,
            }
        )

    async def _render_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _drain(self, _: web.Request) -> web.Response:
        self._status.move(State.DRAINING, "asked to drain")
        return web.json_response({"state": self._status.state.value}, status=202)
