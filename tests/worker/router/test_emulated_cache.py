"""A whole engine's cache, seen through its events: the router's index is what the engine says it holds."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from paceline.api import wire
from tests.contract.emulated import emulator
from tests.contract.engines import Engine
from tests.worker.router.fakes import MODEL, Bench, FakeEngine, bench

HOST_TIER = json.dumps({"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"num_cpu_blocks": 60}})
NAME_BITS = 2**60 - 1


@asynccontextmanager
async def routed(tmp_path: Path, *flags: str) -> AsyncIterator[tuple[Bench, Engine]]:
    """An emulator with cache events behind a router that knows its tokens."""
    more = ("--enable-faults", "--enable-prompt-tokens-details", "--speed", "50", *flags)
    with emulator(tmp_path / "log", *more, model=MODEL) as engine:
        described = FakeEngine("pod", role=wire.Role.BOTH, port=int(engine.url.rpartition(":")[2]))
        described.kv_events, described.kv_replay = engine.kv_events, engine.kv_replay
        async with bench(tmp_path, disaggregated=False, tokenizer="bytes") as router:
            router.write_fleet(described)
            yield router, engine


async def contents(router: Bench, engine: Engine) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Blocks by tier: by the engine's word, and by the router's."""
    async with httpx.AsyncClient() as http:
        held = (await http.get(f"{engine.url}/emulator/blocks")).json()
        known = (await http.get(f"{router.admin_url}/index/pod")).json()
    masked = {tier: {name & NAME_BITS for name in names} for tier, names in held.items()}
    return masked, {"GPU": set(known.get("GPU", ())), "CPU": set(known.get("HOST", ()))}


async def agree(router: Bench, engine: Engine) -> dict[str, set[int]]:
    async with asyncio.timeout(20):
        while True:
            held, known = await contents(router, engine)
            if held == known:
                return held
            await asyncio.sleep(0.05)


async def test_the_index_equals_the_engine_s_cache_through_evictions_and_the_host_tier(tmp_path: Path) -> None:
    draw = random.Random(3)
    flags = ("--num-gpu-blocks-override", "80", "--max-model-len", "1000", "--kv-transfer-config", HOST_TIER)
    async with routed(tmp_path, *flags) as (router, engine):
        system = "You are a helpful assistant. " * 5
        for _ in range(12):
            messages = [{"role": "system", "content": system}]
            for turn in range(2):
                messages.append({"role": "user", "content": f"turn {turn}: {draw.random()} " * draw.randint(2, 8)})
                body = {"model": MODEL, "messages": messages, "max_tokens": 20}
                reply = await router.client.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                messages.append(reply.json()["choices"][0]["message"] | {"tool_calls": None})
        held = await agree(router, engine)
        assert len(held["GPU"]) > 40
        assert len(held["CPU"]) > 20


async def test_the_match_foretold_is_the_hit_that_the_engine_reports(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engine):
        for salt in (None, "tenant"):
            cached = 0
            messages = [{"role": "user", "content": "Tell me a story about prefixes. " * 12}]
            for _ in range(3):
                await agree(router, engine)
                body = {"model": MODEL, "messages": messages, "max_tokens": 40, "cache_salt": salt}
                reply = await router.client.post(
                    "/v1/chat/completions", json=body, headers={"x-paceline-explain": "true"}
                )
                explained = json.loads(reply.headers["x-paceline-placement"])
                usage = reply.json()["usage"]
                assert (explained["exact"], explained["promptTokens"]) == (True, usage["prompt_tokens"])
                cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
                assert explained["engines"][0]["matchedTokens"] == cached
                messages.append({"role": "assistant", "content": reply.json()["choices"][0]["message"]["content"]})
                messages.append({"role": "user", "content": "Go on. " * 6})
            assert cached > 400
