"""A second prefill engine where the first leaves a prompt undone, and whose KV blocks are taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from paceline.api import wire
from paceline_worker.http.headers import JSON
from paceline_worker.http.server import Request, Response
from tests.waiting import until
from tests.worker.router.fakes import (
    KV,
    LONG,
    FakeEngine,
    answer,
    hang,
    status,
)
from tests.worker.router.hedges import (
    Turns,
    disaggregated,
    head_then_hang,
    hedged,
    hedges,
    until_counted,
)


async def test_a_prompt_that_a_prefill_engine_leaves_undone_is_computed_by_a_second_one(tmp_path: Path) -> None:
    turns, engines = Turns(), disaggregated()
    async with hedged(tmp_path, turns, *engines, disaggregated=True) as router:
        turns.next = [hang, answer]
        assert (await router.complete(LONG, stream=True)).status_code == 200
        first, second = turns.asked
        assert {first.name, second.name} == {"p1", "p2"}
        await asyncio.wait_for(first.abandoned.wait(), 60)
        (decode,) = [seen for engine in engines[:2] for seen in engine.seen]
        assert decode.body["kv_transfer_params"] == KV
        assert await hedges(router, "prefill") == {"second": 1}
        assert await hedges(router, "decode") == {}
        assert await router.metric("remote_prefill_total", outcome="ok") == 1
        assert await router.metric("placements_total", prefill="remote") == 1


async def test_where_both_prefill_engines_fail_the_decode_engine_computes_the_prompt(tmp_path: Path) -> None:
    turns, engines = Turns(), disaggregated()

    async def fails_late(engine: FakeEngine, request: Request, response: Response) -> None:
        await until(lambda: len(turns.asked) == 2)
        await status(500)(engine, request, response)

    async with hedged(tmp_path, turns, *engines, disaggregated=True) as router:
        turns.next = [fails_late, fails_late]
        assert (await router.complete(LONG)).status_code == 200
        (decode,) = [seen for engine in engines[:2] for seen in engine.seen]
        assert "kv_transfer_params" not in decode.body
        assert await hedges(router, "prefill") == {"failed": 1}
        assert await router.metric("remote_prefill_total", outcome="failed") == 1


async def test_a_second_decode_engine_never_gets_the_kv_blocks_of_the_first(tmp_path: Path) -> None:
    turns, engines = Turns(), disaggregated()

    async def prefill(engine: FakeEngine, request: Request, response: Response) -> None:
        params = KV | {"remote_engine_id": f"prefill {len(turns.asked)}"}
        response.send(200, msgspec.json.encode({"kv_transfer_params": params}), (JSON,))

    async with hedged(tmp_path, turns, *engines, disaggregated=True) as router:
        turns.next = [prefill, head_then_hang, prefill, answer]
        assert (await router.complete(LONG, stream=True)).status_code == 200
        _, first, _, second = turns.asked
        assert {first.name, second.name} == {"d1", "d2"}
        fetched = [one.seen[0].body["kv_transfer_params"]["remote_engine_id"] for one in (first, second)]
        assert fetched == ["prefill 1", "prefill 3"]
        assert await hedges(router, "decode") == {"second": 1}
        assert await router.metric("remote_prefill_total", outcome="ok") == 1
        assert await router.metric("placements_total", prefill="remote") == 1


async def test_a_prefill_engine_of_another_revision_is_not_asked(tmp_path: Path) -> None:
    turns = Turns()
    engines = (*disaggregated()[:3], FakeEngine("p2", role=wire.Role.PREFILL, revision="r2"))

    async def counted(engine: FakeEngine, request: Request, response: Response) -> None:
        await until_counted(router, "prefill", "no_room")
        await answer(engine, request, response)

    async with hedged(tmp_path, turns, *engines, disaggregated=True) as router:
        turns.next = [counted]
        assert (await router.complete(LONG)).status_code == 200
        assert engines[3].seen == []
