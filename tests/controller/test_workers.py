from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from paceline.controller.workers import EngineWorkers
from paceline.policy.lifecycle.observed import Pod
from tests.controller.fakes import http_server
from tests.policy.lifecycle.world import World, small


def pod() -> Pod:
    world = World(small())
    world.run()
    return world.pods[min(world.pods)]


@asynccontextmanager
async def worker(*states: dict[str, Any] | str) -> AsyncIterator[tuple[EngineWorkers, Pod, list[str]]]:
    """A worker that says these states one after the other, the last one for ever."""
    asked: list[str] = []
    left = list(states)

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        if request.path == "/drain":
            return web.json_response({}, status=202)
        state = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(text=state) if isinstance(state, str) else web.json_response(state)

    async with http_server(answer) as info:
        host, _, port = info.server.removeprefix("http://").partition(":")
        one = EngineWorkers()
        try:
            yield one, replace(pod(), ip=host, admin_port=int(port)), asked
        finally:
            await one.close()


def state(name: str, in_flight: int | None = 0, *, held: bool = False) -> dict[str, Any]:
    return {"state": name, "inFlight": in_flight, "heldBlocks": held, "startId": "x", "reason": "", "pid": 1}


async def test_a_worker_is_told_to_drain_once_and_then_only_asked() -> None:
    async with worker(state("ready", 1), state("draining", 1), state("draining", 0)) as (workers, one, asked):
        assert await workers.drain([one]) == frozenset()
        assert await workers.drain([one]) == {one.name}
    assert asked == ["GET /state", "POST /drain", "GET /state", "GET /state"]


@pytest.mark.parametrize(
    "busy",
    [
        state("draining", 2),
        state("draining", None),
        state("draining", 0, held=True),
        state("ready", 0),
        "no JSON",
    ],
    ids=["requests", "unknown", "blocks-to-fetch", "not-draining", "garbage"],
)
async def test_an_engine_is_busy_until_it_says_otherwise(busy: dict[str, Any] | str) -> None:
    async with worker(busy) as (workers, one, _):
        assert await workers.drain([one]) == frozenset()


@pytest.mark.parametrize("ended", [state("stopped", None), state("failed", None)], ids=["stopped", "failed"])
async def test_an_engine_that_has_ended_has_nothing_in_flight(ended: dict[str, Any]) -> None:
    async with worker(ended) as (workers, one, _):
        assert await workers.drain([one]) == {one.name}


async def test_where_nothing_listens_nothing_is_in_flight() -> None:
    workers = EngineWorkers()
    gone = replace(pod(), ip="127.0.0.1", admin_port=1)
    never = replace(pod(), name="never-ran", ip="")
    assert await workers.drain([gone, never]) == {gone.name, "never-ran"}
    await workers.close()


async def test_an_error_may_be_somebody_in_between_and_is_waited_for() -> None:
    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPBadGateway

    async with http_server(answer) as info:
        host, _, port = info.server.removeprefix("http://").partition(":")
        workers = EngineWorkers()
        assert await workers.drain([replace(pod(), ip=host, admin_port=int(port))]) == frozenset()
        await workers.close()


@pytest.mark.parametrize(
    ("said", "idle"),
    [
        (state("ready", 0), True),
        (state("ready", 1), False),
        (state("ready", 0, held=True), False),
        (state("ready", None), False),
        (state("draining", 0), True),
        ("nonsense", False),
    ],
)
async def test_an_engine_that_is_to_change_its_role_is_only_asked(said: dict[str, Any] | str, idle: bool) -> None:
    async with worker(said) as (workers, one, asked):
        assert await workers.idle([one]) == ({one.name} if idle else set())
    assert asked == ["GET /state"]
