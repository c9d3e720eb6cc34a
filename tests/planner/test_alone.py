"""The planner without an operator: it looks at routers, and only talks."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from aiohttp import web

from paceline.clock import WallClock
from paceline.errors import EngineError
from paceline.planner.alone import watch
from paceline.planner.deployment import Step
from paceline.planner.source import Router
from tests.planner.pages import FakeRouter, text_of
from tests.planner.servers import serving
from tests.planner.world import elastic

FLEET = {"version": 1, "engines": [{"name": f"e{n}", "role": role, "state": "ready"} for n, role in
                                   enumerate(("prefill", "decode"))]}  # fmt: skip


async def test_it_recommends_for_the_engines_that_the_router_names_whatever_the_mode() -> None:
    fake, steps = FakeRouter(), list[Step]()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/fleet":
            return web.json_response(FLEET)
        fake.arrive(9000, times=60)
        return web.Response(text=text_of(fake.samples()))

    async with serving(answer) as url:
        where = urlsplit(url)
        routers = [Router("r", where.hostname or "", where.port or 0)]
        await watch(elastic(intervalSeconds=1), routers, WallClock(), steps.append, looks=3)
    assert [step.blind is None for step in steps] == [False, True, True]
    news = [step.news for step in steps if step.news is not None]
    assert news
    assert (news[0].before.prefill, news[0].before.decode) == (1, 1)
    assert news[0].after.prefill > 1
    assert news[0].reason.startswith("Recommended, not done:")


async def test_a_router_that_does_not_answer_is_named() -> None:
    with pytest.raises(EngineError, match="r does not say which engines there are"):
        await watch(elastic(), [Router("r", "127.0.0.1", 9)], WallClock(), lambda _: None, looks=1)
