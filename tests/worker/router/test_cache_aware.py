"""Requests go where their prefix is; clients may give hints, warm a prefix, and ask why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paceline.api import wire
from tests.waiting import until
from tests.worker.router.fakes import LONG, MODEL, Bench, FakeEngine, bench, hang, status
from tests.worker.router.publishers import SIZE, FakePublisher, stored

BOTH = wire.Role.BOTH
TOKENS = [number % 97 for number in range(4000)]
SMALL_BLOCKS = {"block_size": SIZE, "disaggregated": False}


def both(*names: str) -> list[FakeEngine]:
    return [FakeEngine(name, role=BOTH) for name in names]


def served_by(engines: list[FakeEngine]) -> str:
    return next(engine.name for engine in engines if engine.seen)


@asynccontextmanager
async def with_events(
    tmp_path: Path, engines: list[FakeEngine], **changes: Any
) -> AsyncIterator[tuple[Bench, FakePublisher]]:
    """Engines of which the last one publishes its cache events."""
    publisher = FakePublisher()
    publisher.start()
    engines[-1].kv_events, engines[-1].kv_replay = publisher.live, publisher.replay
    try:
        async with bench(tmp_path, *engines, **SMALL_BLOCKS, **changes) as router:
            await publisher.subscribed()
            yield router, publisher
    finally:
        await publisher.stop()


async def known(router: Bench, tokens: int) -> None:
    await until(lambda: router.router.knowledge.index.entries >= tokens // SIZE)


async def test_a_prompt_goes_to_the_engine_whose_events_say_that_it_has_the_prefix(tmp_path: Path) -> None:
    engines = both("a", "b", "c", "d")
    async with with_events(tmp_path, engines) as (router, publisher):
        await publisher.publish(stored(TOKENS[:2000]))
        await known(router, 2000)
        assert (await router.complete(TOKENS)).status_code == 200
    assert served_by(engines) == "d"


async def test_an_overloaded_engine_does_not_get_its_prefix_s_requests(tmp_path: Path) -> None:
    engines = both("a", "d")
    engines[1].behaviour = hang
    async with with_events(tmp_path, engines, admission=wire.Admission(max_running_per_engine=1)) as (
        router,
        publisher,
    ):
        await publisher.publish(stored(TOKENS[:2000]))
        await known(router, 2000)
        first = asyncio.create_task(router.complete(TOKENS))
        await engines[1].hanging.wait()
        assert (await router.complete(TOKENS)).status_code == 200
        first.cancel()
    assert len(engines[0].seen) == 1


async def test_without_events_a_follow_up_turn_goes_where_the_turn_before_went(tmp_path: Path) -> None:
    engines = both("a", "b", "c", "d")
    async with bench(tmp_path, *engines, disaggregated=False) as router:
        text, places = LONG, set()
        for turn in range(6):
            assert (await router.complete(text)).status_code == 200
            text += f" and turn {turn}"
            places |= {engine.name for engine in engines if engine.seen}
        assert len(places) == 1
        body = {"model": MODEL, "messages": [{"role": "user", "content": LONG}]}
        for engine in engines:
            engine.seen.clear()
        for turn in range(6):
            assert (await router.client.post("/v1/chat/completions", json=body)).status_code == 200
            body["messages"] += [{"role": "user", "content": f"turn {turn}"}]  # type: ignore[operator]
        assert sorted(len(engine.seen) for engine in engines) == [0, 0, 0, 6]


async def test_tenants_with_different_salts_don_t_follow_each_other_s_prefix(tmp_path: Path) -> None:
    (engine,) = both("a")
    async with bench(tmp_path, engine, disaggregated=False) as router:
        for salt, held in (("x", 0), ("y", 0), ("x", 1000)):
            reply = await router.client.post(
                "/v1/completions", json={"model": MODEL, "prompt": LONG, "cache_salt": salt},
                headers={"x-paceline-explain": "1"},
            )  # fmt: skip
            explained = json.loads(reply.headers["x-paceline-placement"])
            assert (explained["engines"][0]["matchedTokens"] >= 1000) == (held >= 1000)


async def test_an_engine_that_failed_a_prompt_is_not_preferred_for_it(tmp_path: Path) -> None:
    engines = both("a", "b")
    async with bench(tmp_path, *engines, disaggregated=False) as router:
        engines[0].behaviour = status(500)
        for _ in range(6):
            assert (await router.complete(LONG)).status_code == 200
        assert len(engines[0].seen) <= 1


async def test_a_session_stays_where_it_was_and_a_sub_agent_begins_there(tmp_path: Path) -> None:
    engines = both("a", "b", "c", "d")

    async def ask(router: Bench, **hints: str) -> str:
        for engine in engines:
            engine.seen.clear()
        headers = {f"x-paceline-{name.replace('_', '-')}": value for name, value in hints.items()}
        prompt = f"{id(hints)} short"
        reply = await router.client.post("/v1/completions", json={"model": MODEL, "prompt": prompt}, headers=headers)
        assert reply.status_code == 200
        return served_by(engines)

    async with bench(tmp_path, *engines, disaggregated=False) as router:
        first = await ask(router, session="s")
        assert {await ask(router, session="s") for _ in range(8)} == {first}
        assert {await ask(router, session=f"t{number}", parent_session="s") for number in range(8)} == {first}
        assert len({await ask(router) for _ in range(32)}) > 1
    async with bench(tmp_path, *engines, disaggregated=False, sessions=wire.Sessions(affinity=False)) as router:
        assert len({await ask(router, session="s") for _ in range(32)}) > 1


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("priority", "high", "an integer from -100 to 100, not 'high'"),
        ("priority", "101", "an integer"),
        ("class", "gold", "one of bulk"),
        ("session", "", "1 to 256 bytes"),
        ("session", "s" * 257, "1 to 256 bytes"),
        ("expected-output-tokens", "-1", "an integer from 1"),
        ("reuse", "perhaps", "true or false"),
        ("explain", "why", "true, false or only"),
    ],
)
async def test_a_hint_that_is_none_is_refused_by_name(tmp_path: Path, header: str, value: str, said: str) -> None:
    bulk = wire.RequestClass(
        name="bulk", priority=-5, objective=wire.Objective(ttft_milliseconds=60_000, itl_milliseconds=500)
    )
    async with bench(tmp_path, *both("a"), classes=(bulk,)) as router:
        name = f"x-paceline-{header}"
        reply = await router.client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}, headers={name: value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == name
    assert said in reply.json()["error"]["message"]


async def test_hints_never_reach_an_engine(tmp_path: Path) -> None:
    (engine,) = both("a")
    async with bench(tmp_path, engine) as router:
        headers = {"x-paceline-session": "s", "x-paceline-priority": "3", "x-other": "y"}
        await router.client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}, headers=headers)
    assert {name for name in engine.seen[0].headers if name.startswith(b"x-")} == {b"x-other", b"x-request-id"}


async def test_of_those_who_wait_the_higher_priority_goes_first(tmp_path: Path) -> None:
    (engine,) = both("a")
    engine.behaviour = hang
    async with bench(tmp_path, engine, admission=wire.Admission(max_running_per_engine=1)) as router:
        blocker = asyncio.create_task(router.complete("first"))
        await engine.hanging.wait()
        waiting = []
        for number, priority in enumerate((-3, 0, 7, 2)):
            headers = {"x-paceline-priority": str(priority)}
            body = {"model": MODEL, "prompt": f"priority {priority}"}
            waiting.append(asyncio.create_task(router.client.post("/v1/completions", json=body, headers=headers)))
            await until(lambda number=number: router.router.gate.waiting == number + 1)  # type: ignore[misc]
        engine.behaviour = FakeEngine("x").behaviour
        blocker.cancel()
        await asyncio.gather(*waiting)
    assert [seen.body["prompt"] for seen in engine.seen[1:]] == [f"priority {number}" for number in (7, 2, 0, -3)]


async def test_a_prefill_engine_gets_little_more_than_a_batch_and_the_rest_waits_in_order(tmp_path: Path) -> None:
    decode, prefill = FakeEngine("d"), FakeEngine("p", role=wire.Role.PREFILL)
    prefill.behaviour = hang
    async with bench(tmp_path, decode, prefill, max_model_len=None) as router:
        prompts = ["".join(f"{number}-{word} " for word in range(6000)) for number in range(6)]
        asked = [asyncio.create_task(router.complete(prompt)) for prompt in prompts]
        await until(lambda: router.router.gate.waiting >= 1)
        held = router.router.gate.waiting
        assert held + len(prefill.seen) <= 6
        assert (await router.complete("a short one")).status_code == 200, "those who need no prefill engine go on"
        prefill.behaviour = FakeEngine("x").behaviour
        await prefill.stop()
        assert [reply.status_code for reply in await asyncio.gather(*asked)] == [200] * 6
        assert router.is_idle()


async def test_a_client_may_ask_how_it_would_be_placed(tmp_path: Path) -> None:
    engines = both("a", "d")
    async with with_events(tmp_path, engines) as (router, publisher):
        await publisher.publish(stored(TOKENS[:2000]))
        await known(router, 2000)
        body = {"model": MODEL, "prompt": TOKENS}
        reply = await router.client.post("/v1/completions", json=body, headers={"x-paceline-explain": "only"})
        explained = reply.json()
        assert (explained["decode"], explained["prefill"], explained["reason"]) == ("d", None, "not-disaggregated")
        assert (explained["promptTokens"], explained["exact"]) == (4000, True)
        holder, other = explained["engines"]
        assert (holder["name"], holder["matchedTokens"], other["matchedTokens"]) == ("d", 2000, 0)
        assert holder["compute"] == pytest.approx(other["compute"] - 200)
        assert not any(engine.seen for engine in engines)
        assert router.is_idle()
        answered = await router.client.post("/v1/completions", json=body, headers={"x-paceline-explain": "1"})
        assert json.loads(answered.headers["x-paceline-placement"])["decode"] == "d"


async def test_a_prefix_can_be_warmed_ahead_of_its_request(tmp_path: Path) -> None:
    decode, prefill = FakeEngine("d"), FakeEngine("p", role=wire.Role.PREFILL)
    async with bench(tmp_path, decode, prefill) as router:
        warm = {"x-paceline-prefetch": "true"}
        body = {"model": MODEL, "prompt": LONG, "max_tokens": 500, "stream": True}
        reply = await router.client.post("/v1/completions", json=body, headers=warm)
        assert reply.json()["prefetched"] is True
        assert reply.json()["engine"] == "p"
        (seen,) = prefill.seen
        assert (seen.body["max_tokens"], seen.body["stream"], "kv_transfer_params" in seen.body) == (1, False, False)
        assert not decode.seen
        assert router.is_idle()


async def test_a_prefetch_never_stands_in_a_queue(tmp_path: Path) -> None:
    (engine,) = both("a")
    engine.behaviour = hang
    async with bench(tmp_path, engine, admission=wire.Admission(max_running_per_engine=1)) as router:
        blocker = asyncio.create_task(router.complete("first"))
        await engine.hanging.wait()
        body = {"model": MODEL, "prompt": "x"}
        reply = await router.client.post("/v1/completions", json=body, headers={"x-paceline-prefetch": "1"})
        assert reply.json() == {"prefetched": False, "reason": "other requests are served first"}
        blocker.cancel()


async def test_what_arrives_is_measured_by_what_engines_hold_of_it(tmp_path: Path) -> None:
    engines = both("a", "d")
    async with with_events(tmp_path, engines) as (router, publisher):
        await publisher.publish(stored(TOKENS[:2000]))
        await known(router, 2000)
        await router.complete(TOKENS)
        sums = [await router.metric("prompt_tokens_at_arrival_sum", kind=kind) for kind in ("cached", "uncached")]
        assert sums == [2000, 2000]
        assert await router.metric("prefix_index_engines", mode="events") == 1
        assert await router.metric("prefix_index_engines", mode="sent") == 1
        page = (await router.client.get(f"{router.admin_url}/metrics")).text
        for name in ("cache_events_staleness_seconds", "cache_event_batches_total", "prefix_index_entries"):
            assert f"paceline_router_{name}" in page


async def test_an_adapter_s_requests_go_where_it_is_loaded(tmp_path: Path) -> None:
    engines = both("a", "b", "c")
    load = (
        "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
        'vllm:lora_requests_info{{max_lora="2",running_lora_adapters="{}",waiting_lora_adapters=""}} 1.7e9\n'
    )
    for engine in engines:
        engine.metrics = load.format("adapter" if engine.name == "c" else "").encode()
    async with bench(tmp_path, *engines, disaggregated=False) as router:
        await until(lambda: all(engine.reported.adapters is not None for engine in router.router.fleet))
        for number in range(6):
            body = {"model": "adapter", "prompt": f"{number}"}
            assert (await router.client.post("/v1/completions", json=body)).status_code == 200
    assert [len(engine.seen) for engine in engines] == [0, 0, 6]


async def test_routing_by_load_alone_is_a_setting(tmp_path: Path) -> None:
    engines = both("a", "b", "c", "d")
    weights = wire.PlacementWeights(cache_percent=0)
    async with bench(tmp_path, *engines, disaggregated=False, placement=weights) as router:
        for _ in range(40):
            assert (await router.complete(LONG)).status_code == 200
    assert all(engine.seen for engine in engines)


async def test_what_is_known_of_each_engine_can_be_looked_at(tmp_path: Path) -> None:
    engines = both("a", "d")
    async with with_events(tmp_path, engines) as (router, publisher):
        event = stored(TOKENS[:12])
        await publisher.publish(event)
        await known(router, 12)
        index = (await router.client.get(f"{router.admin_url}/index")).json()
        assert index["entries"] == 3
        assert [(one["name"], one["mode"], one["blocks"]) for one in index["engines"]] == [
            ("a", "sent", 0), ("d", "events", 3),
        ]  # fmt: skip
        names = (await router.client.get(f"{router.admin_url}/index/d")).json()
        assert set(names["GPU"]) == {int(name) & (2**60 - 1) for name in event.block_hashes}
        assert (await router.client.get(f"{router.admin_url}/index/nobody")).status_code == 404
