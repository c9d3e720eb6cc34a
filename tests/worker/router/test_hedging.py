"""A second engine where the first is late: who answers, what becomes of the other, and when nobody else is asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api import wire
from paceline.policy.routing.retries import RetryBudget
from paceline_worker.http.server import Request, Response
from paceline_worker.router.health import FAILURES_TO_EJECT, Health
from tests.bench.stack import SERVED_NAME, running_stack
from tests.waiting import until
from tests.worker.router.fakes import (
    DONE,
    EVENT_STREAM,
    Behaviour,
    FakeEngine,
    answer,
    bench,
    event,
    hang,
    status,
)
from tests.worker.router.hedges import (
    HEDGING,
    PATH,
    SAVED,
    Turns,
    head_then_hang,
    hedged,
    hedges,
    two,
    until_counted,
)

# --- the answer


@pytest.mark.parametrize("late", [hang, head_then_hang])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_without_an_answer_is_answered_by_a_second_engine(
    tmp_path: Path, late: Behaviour, *, stream: bool
) -> None:
    turns = Turns()
    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [hang if late is head_then_hang and not stream else late, answer]
        reply = await router.complete(stream=stream, max_tokens=1)
        first, second = turns.asked
        whole = b"".join(event(f"{second.name}:{number} ") for number in range(second.chunks)) + DONE
        assert reply.content == whole if stream else f"from {second.name}" in reply.text
        await asyncio.wait_for(first.abandoned.wait(), 60)
        assert {first.name, second.name} == {"one", "other"}
        assert (first.seen[0].body, first.seen[0].request_id) == (second.seen[0].body, second.seen[0].request_id)
        assert await hedges(router, "decode") == {"second": 1}
        assert await router.metric("requests_total", outcome="ok", path=PATH) == SAVED + 1
        assert await router.metric("placements_total", prefill="not-disaggregated") == SAVED + 1
        assert await router.metric("time_to_first_token_seconds_count") == int(stream)


async def test_the_first_engine_is_taken_where_it_answers_first_after_all(tmp_path: Path) -> None:
    turns = Turns()

    async def slow(engine: FakeEngine, request: Request, response: Response) -> None:
        await until(lambda: len(turns.asked) == 2)
        await answer(engine, request, response)

    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [slow, hang]
        reply = await router.complete(stream=True)
        first, second = turns.asked
        assert f"{first.name}:0".encode() in reply.content
        await asyncio.wait_for(second.abandoned.wait(), 60)
        assert await hedges(router, "decode") == {"first": 1}


@pytest.mark.parametrize(
    ("then", "usable"),
    [pytest.param(hang, True, id="slowness does not"), pytest.param(status(503), False, id="a failure does")],
)
async def test_what_counts_against_the_health_of_the_first(tmp_path: Path, then: Behaviour, *, usable: bool) -> None:
    turns, failed_before = Turns(), asyncio.Event()

    def health_of_first() -> Health:
        return router.router.fleet.engines[turns.asked[0].name].health

    async def first(engine: FakeEngine, request: Request, response: Response) -> None:
        await until(lambda: len(turns.asked) == 2)
        for _ in range(FAILURES_TO_EJECT - 1):
            health_of_first().failed(refused=False)
        failed_before.set()
        await then(engine, request, response)

    async def second(engine: FakeEngine, request: Request, response: Response) -> None:
        await failed_before.wait()
        await until(lambda: usable or not health_of_first().usable)
        await answer(engine, request, response)

    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [first, second]
        reply = await router.complete(stream=True)
        assert f"{turns.asked[1].name}:0".encode() in reply.content
        assert health_of_first().usable is usable
        assert await hedges(router, "decode") == {"second": 1}
        assert await router.metric("retries_total", reason="status-503") == 0


async def test_where_both_fail_the_request_is_tried_again_as_ever(tmp_path: Path) -> None:
    turns = Turns()

    async def fails_late(engine: FakeEngine, request: Request, response: Response) -> None:
        await until(lambda: len(turns.asked) == 2)
        await status(503)(engine, request, response)

    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [fails_late, fails_late]
        assert (await router.complete(stream=True)).status_code == 200
        assert await hedges(router, "decode") == {"failed": 1}
        assert await router.metric("retries_total", reason="status-503") == 1


async def test_a_request_counts_on_the_engine_that_was_too_slow_for_it_until_it_is_over(tmp_path: Path) -> None:
    turns = Turns()

    async def answer_after_the_first_is_stopped(engine: FakeEngine, request: Request, response: Response) -> None:
        response.start(200, (EVENT_STREAM,))
        response.write(event("begun "))
        await turns.asked[0].abandoned.wait()
        running.update({engine.name: engine.running for engine in router.router.fleet})
        response.write(DONE)
        response.end()

    running: dict[str, int] = {}
    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [hang, answer_after_the_first_is_stopped]
        assert (await router.complete(stream=True)).content.endswith(DONE)
        assert running == {"one": 1, "other": 1}


@pytest.mark.parametrize("late", [hang, head_then_hang])
async def test_a_client_that_goes_away_takes_both_along(tmp_path: Path, late: Behaviour) -> None:
    turns = Turns()
    async with hedged(tmp_path, turns, *two()) as router:
        turns.next = [late, late]
        request = asyncio.create_task(router.complete(stream=True))
        await until(lambda: len(turns.asked) == 2)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        for engine in turns.asked:
            await asyncio.wait_for(engine.abandoned.wait(), 60)
        await until(router.is_idle)
        assert await hedges(router, "decode") == {"abandoned": 1}
        assert await router.metric("requests_total", outcome="cancelled", path=PATH) == 1


# --- when nobody else is asked


async def test_nobody_else_is_asked_without_room_for_it_at_once(tmp_path: Path) -> None:
    turns = Turns()

    async def busy(engine: FakeEngine, request: Request, response: Response) -> None:
        # Both look before either ends: whoever looked later would find the engine of the other one free.
        await until_counted(router, "decode", "no_room", times=2)
        await answer(engine, request, response)

    async with hedged(tmp_path, turns, *two(), admission=wire.Admission(max_running_per_engine=1)) as router:
        turns.next = [busy, busy]
        replies = await asyncio.gather(router.complete(stream=True), router.complete(stream=True))
        assert [reply.status_code for reply in replies] == [200, 200]
        assert len(turns.asked) == 2
        assert (await hedges(router, "decode")).keys() == {"no_room"}


async def test_nobody_else_is_asked_over_the_budget(tmp_path: Path) -> None:
    turns = Turns()

    async def slow(engine: FakeEngine, request: Request, response: Response) -> None:
        await until_counted(router, "decode", "over_budget")
        await answer(engine, request, response)

    scarce = wire.Hedging(after_milliseconds=20, max_percent=5)
    async with hedged(tmp_path, turns, *two(), hedging=scarce) as router:
        turns.next = [slow]
        assert (await router.complete(stream=True)).status_code == 200
        assert sum(len(engine.seen) for engine in router.engines) == 1


async def test_requests_that_are_all_late_are_hedged_no_more_often_than_the_share_allows(tmp_path: Path) -> None:
    async def slow(engine: FakeEngine, request: Request, response: Response) -> None:
        await asyncio.sleep(0.15)
        await answer(engine, request, response)

    engines, total = two(), 60
    for engine in engines:
        engine.behaviour = slow
    async with bench(
        tmp_path, *engines, disaggregated=False, hedging=wire.Hedging(after_milliseconds=10, max_percent=10)
    ) as router:
        for _ in range(total // 10):
            replies = await asyncio.gather(*(router.complete(stream=True) for _ in range(10)))
            assert {reply.status_code for reply in replies} == {200}
        second = sum(len(engine.seen) for engine in engines) - total
        assert 1 <= second <= total / 10
        assert sum((await hedges(router, "decode")).values()) == total


@pytest.mark.parametrize(
    ("hedging", "headers", "asked"),
    [
        pytest.param(None, {}, {"stream": True}, id="off, which is the default"),
        pytest.param(HEDGING, {"x-paceline-priority": "-1"}, {"stream": True}, id="less than ordinary work"),
        pytest.param(HEDGING, {"x-paceline-prefetch": "true"}, {"max_tokens": 1}, id="prefetch"),
        pytest.param(HEDGING, {}, {"max_tokens": 256}, id="an answer that is no stream takes its time"),
    ],
)
async def test_one_engine_is_asked(
    tmp_path: Path, hedging: wire.Hedging | None, headers: dict[str, str], asked: dict[str, object]
) -> None:
    turns = Turns()

    async def slow(engine: FakeEngine, request: Request, response: Response) -> None:
        await asyncio.sleep(2 * HEDGING.after_milliseconds / 1000)
        await answer(engine, request, response)

    async with hedged(tmp_path, turns, *two(), hedging=hedging) as router:
        turns.next = [slow]
        body = {"model": "test-model", "prompt": "hello", **asked}
        assert (await router.client.post(PATH, json=body, headers=headers)).status_code == 200
        assert sum(len(engine.seen) for engine in router.engines) == 1
        assert await hedges(router, "decode") == {}


@given(st.integers(1, 50), st.lists(st.booleans(), max_size=400))
def test_a_budget_that_begins_empty_never_spends_more_than_its_share(percent: int, late: list[bool]) -> None:
    budget, spent = RetryBudget(share=percent / 100, saved=0.0), 0
    for number, one in enumerate(late, 1):
        budget.earn()
        spent += one and budget.spend()
        assert spent <= number * percent / 100 + 1e-9


# --- emulated engines


async def test_a_stream_that_a_second_engine_began_goes_on_exactly_when_that_one_dies(tmp_path: Path) -> None:
    body = {"model": SERVED_NAME, "prompt": "Tell me of a river.", "max_tokens": 80, "ignore_eos": True}
    placed = {"x-paceline-session": "s", "x-paceline-explain": "true"}
    stack = running_stack(
        tmp_path, prefill=0, decode=2, profile="qwen3-32b-h200-tp2", speed=20.0, faults=True, hedging=HEDGING
    )
    with stack as running:
        engines = dict(zip(("engine-0", "engine-1"), running.engine_urls, strict=True))
        async with httpx.AsyncClient(timeout=30) as client:

            async def fault(engine: str, **faults: object) -> None:
                (await client.post(f"{engines[engine]}/emulator/faults", json=faults)).raise_for_status()

            for _ in range(SAVED):
                reply = await client.post(f"{running.router_url}{PATH}", json=body, headers=placed)
            right = reply.json()["choices"][0]
            first = json.loads(reply.headers["x-paceline-placement"])["decode"]
            (other,) = engines.keys() - {first}
            await fault(first, freeze=True)
            await fault(other, dieAfterTokens=30)
            text, reason, thawed = "", None, False
            stream = client.stream(
                "POST", f"{running.router_url}{PATH}", json=body | {"stream": True}, headers={"x-paceline-session": "s"}
            )
            async with stream as answers:
                async for line in answers.aiter_lines():
                    if line.startswith("data: {"):
                        choice = json.loads(line[6:])["choices"][0]
                        text, reason = text + choice["text"], choice["finish_reason"] or reason
                        if not thawed:
                            thawed = True
                            await fault(first)
            assert (text, reason) == (right["text"], right["finish_reason"])
            page = (await client.get(f"{running.admin_url}/metrics")).text
            assert 'paceline_router_hedges_total{outcome="second",stage="decode"} 1.0' in page
            assert 'paceline_router_resumes_total{outcome="ok"} 1.0' in page
            still = (await client.get(f"{engines[first]}/metrics")).text
            assert 'finished_reason="abort"' in still
