"""What the watch makes of an engine that leaves its checks without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paceline.api import wire
from paceline_worker.http.client import Pool, PoolLimits
from paceline_worker.http.server import Request, Response
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.health import FAILURES_TO_EJECT
from paceline_worker.router.watch import Watch
from tests.waiting import until
from tests.worker.router.fakes import EVENT_STREAM, FakeEngine, event

CHECK_SECONDS = 0.2
POST = b"POST /v1/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: 2\r\n\r\n{}"


async def go_on_streaming(engine: FakeEngine, request: Request, response: Response) -> None:
    response.start(200, (EVENT_STREAM,))
    while True:
        response.write(event("more "))
        await asyncio.sleep(CHECK_SECONDS / 10)


@asynccontextmanager
async def watched(engine: FakeEngine) -> AsyncIterator[tuple[Engine, Pool]]:
    """The router's view of an engine under watch, and the connections to it."""
    await engine.start()
    fleet, pool = Fleet(lambda: None, lambda _: None), Pool(PoolLimits())
    watch = Watch(fleet, pool, check_seconds=CHECK_SECONDS)
    try:
        fleet.apply(wire.Fleet(version=1, engines=(engine.endpoint,)))
        watch.sync()
        yield next(iter(fleet)), pool
    finally:
        await watch.close()
        await pool.close()
        await engine.stop()


async def test_an_engine_from_which_nothing_comes_gets_no_more_work() -> None:
    async with watched(FakeEngine("silent", mute=True)) as (engine, _):
        assert engine.health.usable
        await until(lambda: not engine.health.usable)


async def test_an_engine_that_streams_keeps_its_work() -> None:
    busy = FakeEngine("busy", mute=True, behaviour=go_on_streaming)
    async with watched(busy) as (engine, pool):
        exchange = await pool.open(engine.address, POST)
        reading = asyncio.create_task(exchange.relay(lambda _: None))
        for _ in range(FAILURES_TO_EJECT + 1):
            busy.checked.clear()
            await busy.checked.wait()
        assert engine.health.usable
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        exchange.close()
        await until(lambda: not engine.health.usable)
