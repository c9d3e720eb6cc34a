"""One task for each engine: asks for its health and its load, and tells the fleet what changed."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from paceline_worker.http.client import Pool
from paceline_worker.http.errors import UpstreamError, UpstreamUnreachable
from paceline_worker.router.fleet import Engine, Fleet, Reported
from paceline_worker.router.load import read_load

log = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS: Final = 2.0
"""A check without an answer counts against an engine only if nothing else came from it either: a server that is busy
with its streams may be slow to say so.
"""
STALL_SECONDS: Final = 10.0
"""An engine that has begun streams and sends nothing of any of them for so long is stuck. Steps take milliseconds; one
with a batch of long prompts takes a second.
"""
SILENT_SECONDS: Final = 2.0
"""Exchanges with an engine that does not answer checks are given up when they have waited for so long."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
"""Of a metrics page; vLLM's are about 100 kB."""


class Watch:
    """Watches every engine of the fleet. Call :meth:`sync` whenever the fleet has changed."""

    def __init__(
        self,
        fleet: Fleet,
        pool: Pool,
        *,
        stall_seconds: float = STALL_SECONDS,
        check_seconds: float = CHECK_TIMEOUT_SECONDS,
    ) -> None:
        self._fleet = fleet
        self._stall_seconds = stall_seconds
        self._check_seconds = check_seconds
        self._pool = pool
        self._tasks: dict[Engine, asyncio.Task[None]] = {}

    def sync(self) -> None:
        """Start and stop tasks so that there is one for each engine."""
        engines = set(self._fleet)
        for engine in [engine for engine in self._tasks if engine not in engines]:
            self._tasks.pop(engine).cancel()
        for engine in engines - self._tasks.keys():
            self._tasks[engine] = asyncio.create_task(self._run(engine), name=f"watch {engine.name}")

    async def close(self) -> None:
        """Stop all tasks."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, engine: Engine) -> None:
        try:
            while True:
                await self._look(engine)
                await asyncio.sleep(engine.health.next_check_seconds)
        except Exception:  # the root of a task: without its watch an engine would keep its last state for ever
            log.exception("the watch of engine %s failed; the engine gets no more work", engine.name)
            engine.gone = True
            self._fleet.health_changed(engine)

    async def _look(self, engine: Engine) -> None:
        try:
            async with asyncio.timeout(self._check_seconds):
                status, _ = await self._get(engine, b"/health")
                healthy = status == 200
        except TimeoutError:
            silence = self._pool.silence(engine.address)
            if silence is None or silence > self._check_seconds:
                self._found_bad(engine, f"no answer to /health within {self._check_seconds:g} s", refused=False)
            return
        except UpstreamError as error:
            self._found_bad(engine, str(error), refused=isinstance(error, UpstreamUnreachable))
            return
        if not healthy:
            self._found_bad(engine, f"/health answers {status}", refused=False)
            return
        silence = self._pool.silence(engine.address)
        if silence is not None and silence > self._stall_seconds:
            self._found_hung(engine, silence)
            return
        if engine.health.check_succeeded():
            log.info("engine %s answers again", engine.name)
            self._fleet.health_changed(engine)
        await self._scrape(engine)

    async def _scrape(self, engine: Engine) -> None:
        own = engine.running + engine.prefilling
        try:
            async with asyncio.timeout(self._check_seconds):
                status, page = await self._get(engine, b"/metrics")
        except (UpstreamError, TimeoutError):
            return  # it is healthy by its own word; its load stays what it was
        load = read_load(page) if status == 200 else None
        if load is not None:
            engine.reported = Reported(load.requests, load.kv_usage, own, load.adapters)
            engine.changed()

    def _found_bad(self, engine: Engine, what: str, *, refused: bool) -> None:
        if engine.health.check_failed(refused=refused):
            log.warning("engine %s gets no more work: %s", engine.name, what)
            self._fleet.health_changed(engine)
        if not engine.health.usable:
            self._pool.cut_silent(engine.address, SILENT_SECONDS, what)

    def _found_hung(self, engine: Engine, silence: float) -> None:
        what = f"it answers checks, and none of its streams has moved for {silence:.0f} s"
        if engine.health.hung():
            log.warning("engine %s gets no more work: %s", engine.name, what)
            self._fleet.health_changed(engine)
        self._pool.cut_silent(engine.address, 0.0, what)

    async def _get(self, engine: Engine, path: bytes) -> tuple[int, bytes]:
        payload = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (path, engine.host_header)
        exchange = await self._pool.open(engine.address, payload)
        try:
            return exchange.status, await exchange.read(MAX_PAGE_BYTES)
        finally:
            exchange.close()
