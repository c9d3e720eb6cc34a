"""The operator's own HTTP server: probes and metrics. Started by the operator."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from paceline.controller.metrics import CONTENT_TYPE, OperatorMetrics
from paceline.errors import ConfigError


class OperatorServer:
    """``/healthz``, ``/readyz`` and ``/metrics``. ``trouble`` says why the operator can't work now, if so."""

    def __init__(self, metrics: OperatorMetrics, trouble: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._trouble = trouble
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._render),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ConfigError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"--metrics-port: can't listen on {host}:{port}: {error.strerror}.") from None

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        trouble = self._trouble()
        return web.json_response(
            {"ready": trouble is None, "reason": trouble or ""}, status=200 if not trouble else 503
        )

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
