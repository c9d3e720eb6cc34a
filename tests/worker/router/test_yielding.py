"""Streams of batch work give way at once, and come out as if nothing had been. The engines whose texts are compared are
emulators: what they say next is a function of all tokens so far.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from paceline.api import wire
from paceline.policy.routing.yielding import MAX_INTERRUPTIONS
from paceline_worker.http.server import Request, Response
from paceline_worker.router.yielding import Guest
from tests.contract.emulated import emulator
from tests.waiting import until
from tests.worker.router.fakes import DONE, MODEL, Bench, FakeEngine, bench
from tests.worker.router.resume.test_resumer import reasons, shape, text_of, told

BATCH = {"x-paceline-priority": "-10"}
PROMPT = "Once upon a time there was a router. " * 3
TOKENS = 250
LONG = 600
"""Tokens of streams that are to run together for seconds, on a busy machine too."""
ONE_EACH = wire.Admission(max_running_per_engine=1)
"""An engine so small that batch work leaves nothing of it free."""


@asynccontextmanager
async def routed(
    tmp_path: Path, count: int = 1, *, speed: str = "4", admission: wire.Admission = ONE_EACH
) -> AsyncIterator[Bench]:
    """Emulators behind a router, each with the room that ``admission`` says."""
    async with AsyncExitStack() as stack:
        engines = [
            stack.enter_context(emulator(tmp_path / f"log-{number}", "--speed", speed, model=MODEL))
            for number in range(count)
        ]
        router = await stack.enter_async_context(bench(tmp_path, disaggregated=False, admission=admission))
        router.engines = [
            FakeEngine(f"pod-{number}", role=wire.Role.BOTH, port=int(engine.url.rpartition(":")[2]))
            for number, engine in enumerate(engines)
        ]
        router.write_fleet(*router.engines)
        await until(lambda: len(router.router.fleet) == count)
        yield router


async def stream(
    router: Bench, path: str = "/v1/completions", headers: dict[str, str] | None = None, **body: Any
) -> list[dict[str, Any]]:
    prompt = {"messages": [{"role": "user", "content": PROMPT}]} if "chat" in path else {"prompt": PROMPT}
    fixed = {"model": MODEL, "stream": True, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    reply = await router.client.post(path, json={**fixed, **prompt, **body}, headers=headers)
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", lines[-2:]
    return [json.loads(line) for line in lines[:-1]]


def hosted(router: Bench) -> list[Guest]:
    return list(router.router.gate.guests._hosted)


def said(router: Bench) -> int:
    """Tokens of the batch stream that could be interrupted; 0 while there is none."""
    return sum(guest.transcript.tokens for guest in hosted(router) if guest.transcript is not None)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_stream_that_gave_way_is_the_stream_that_did_not_have_to(tmp_path: Path, path: str) -> None:
    options = {"stream_options": {"include_usage": True}}
    async with routed(tmp_path) as router:
        whole = await stream(router, path, **options)
        batch = asyncio.create_task(stream(router, path, BATCH, **options))
        await until(lambda: said(router) > 5)
        await stream(router, max_tokens=3)
        assert not batch.done(), "who is not batch work did not wait for its end"
        interrupted = await batch
        assert await router.metric("yields_total", outcome="resumed") == 1
        assert await router.metric("yield_pause_seconds_count") == 1
        assert await router.metric("paused_streams") == 0
        assert await router.metric("resumes_total", outcome="ok") == 0
        assert await router.metric("resume_gap_seconds_count") == 0
        assert router.router.fleet.engines["pod-0"].health.ejections == 0
        assert router.is_idle()
    assert text_of(interrupted) == text_of(whole)
    assert interrupted[-1]["usage"] == whole[-1]["usage"]
    assert reasons(interrupted) == reasons(whole)
    assert len({(event["id"], event["created"], event["object"]) for event in interrupted}) == 1
    assert shape(interrupted[-2]) | {"system_fingerprint": None} == shape(whole[-2]) | {"system_fingerprint": None}


async def test_after_some_interruptions_a_stream_runs_to_its_end(tmp_path: Path) -> None:
    async with routed(tmp_path) as router:
        whole = await stream(router, max_tokens=LONG)
        batch = asyncio.create_task(stream(router, headers=BATCH, max_tokens=LONG))
        before = 0
        for _ in range(MAX_INTERRUPTIONS):
            await until(lambda: said(router) > before + 5)  # noqa: B023 - awaited within its turn
            before = said(router)
            await stream(router, max_tokens=2)
        await until(lambda: router.router.gate.guests.paused == 0)
        assert not hosted(router)
        await stream(router, max_tokens=2)
        assert await router.metric("requests_total", outcome="ok", path="/v1/completions") == MAX_INTERRUPTIONS + 3, (
            "the last one waited for the end of the batch stream"
        )
        assert await router.metric("yields_total", outcome="resumed") == MAX_INTERRUPTIONS
    assert text_of(await batch) == text_of(whole)


async def test_as_many_give_way_as_requests_wait_and_all_come_out_whole(tmp_path: Path) -> None:
    prompts = [f"{PROMPT} {number}" for number in range(6)]
    async with routed(tmp_path, 2, speed="1", admission=wire.Admission(max_running_per_engine=4)) as router:
        wholes = await asyncio.gather(*(stream(router, prompt=prompt, max_tokens=LONG) for prompt in prompts))
        batch = [
            asyncio.create_task(stream(router, headers=BATCH, prompt=prompt, max_tokens=LONG)) for prompt in prompts
        ]
        await until(lambda: len(hosted(router)) == 6 and all(guest.can_go_on() for guest in hosted(router)))
        # Two find the room that batch work left; two more have others give way.
        burst = [asyncio.create_task(stream(router, max_tokens=50)) for _ in range(4)]
        interrupted = await asyncio.gather(*batch)
        await asyncio.gather(*burst)
        assert await router.metric("yields_total", outcome="resumed") == 2
        assert router.is_idle()
    assert [text_of(one) for one in interrupted] == [text_of(one) for one in wholes]


class Slow:
    """An engine's behaviour: says a token each time it is told to, and counts what it was asked for."""

    def __init__(self, *, mute: bool = False) -> None:
        self.mute = mute
        self.asked: list[list[int] | str] = []
        self.finish = asyncio.Event()
        self.serve = asyncio.Event()
        self.serve.set()

    async def __call__(self, engine: FakeEngine, request: Request, response: Response) -> None:
        body = json.loads(request.body)
        prompt = body["prompt"]
        self.asked.append(prompt)
        if not body.get("stream"):
            await self.finish.wait()
            response.send(200, b'{"choices":[]}')
            return
        response.start(200, ((b"content-type", b"text/event-stream"),))
        if prompt == "interactive":
            await self.serve.wait()
            response.write(told("x", 50, prompt=True) + DONE)
            response.end()
            return
        if not (self.mute and len(self.asked) == 1):
            first = 10 if isinstance(prompt, str) else prompt[-1] + 1
            response.write(told(f"{first} ", first, prompt=isinstance(prompt, str)))
            response.write(told(f"{first + 1} ", first + 1))
        await self.finish.wait()
        response.write(told("end", 99).replace(b'"finish_reason": null', b'"finish_reason": "stop"') + DONE)
        response.end()


def one_slow(slow: Slow) -> FakeEngine:
    return FakeEngine("a", role=wire.Role.BOTH, behaviour=slow)


def batch_of(router: Bench, **more: Any) -> asyncio.Task[httpx.Response]:
    body = {"model": MODEL, "prompt": "batch", "stream": True, "max_tokens": 20, "temperature": 0, **more}
    return asyncio.create_task(router.client.post("/v1/completions", json=body, headers=BATCH))


async def test_one_that_has_said_nothing_is_placed_again_and_that_is_no_retry(tmp_path: Path) -> None:
    slow = Slow(mute=True)
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch = batch_of(router)
        await until(lambda: len(hosted(router)) == 1)
        (guest,) = hosted(router)
        assert (await router.complete("interactive", stream=True)).status_code == 200
        slow.finish.set()
        reply = await batch
        assert slow.asked == ["batch", "interactive", "batch"]
        assert text_of([json.loads(line[6:]) for line in reply.text.split("\n\n")[:-2]]) == "10 11 end"
        assert (guest.interruptions, guest.paused_seconds) == (1, 0.0), "that was a wait for the first token"
        assert await router.metric("yields_total", outcome="resumed") == 1
        assert all(count == 0 for count in router.router.metrics.retries._values.values())
        assert await router.metric("slo_requests_total", **{"class": "default", "met": "yes"}) == 2


@pytest.mark.parametrize(
    "body",
    [{"stop": ["zzz"]}, {"seed": 3, "temperature": 1}, {"stream": False}],
    ids=["it may hold text back", "its state is not in its tokens", "it is no stream"],
)
async def test_what_may_not_go_on_exactly_is_never_interrupted(tmp_path: Path, body: dict[str, Any]) -> None:
    slow = Slow()
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch = batch_of(router, **body)
        await until(lambda: slow.asked == ["batch"])
        interactive = asyncio.create_task(router.complete("interactive", stream=True))
        await until(lambda: router.router.gate.waiting == 1)
        slow.finish.set()
        assert (await batch).status_code == 200
        assert (await interactive).status_code == 200
        assert slow.asked == ["batch", "interactive"]


async def test_a_stream_whose_text_and_tokens_do_not_end_together_is_left_alone_until_they_do(tmp_path: Path) -> None:
    slow = Slow()
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch = batch_of(router, temperature=1)
        await until(lambda: said(router) == 2)
        (guest,) = hosted(router)
        assert guest.transcript is not None
        guest.transcript.settled = False  # as after two tokens in one event
        interactive = asyncio.create_task(router.complete("interactive", stream=True))
        await until(lambda: router.router.gate.waiting == 1)
        assert router.router.gate.guests.paused == 0
        guest.transcript.settled = True
        router.router.gate.wake()
        assert (await interactive).status_code == 200
        slow.finish.set()
        await batch
        assert slow.asked == ["batch", "interactive", [1, 2, 10, 11]]


async def test_it_goes_on_behind_all_of_higher_priority_from_what_was_sent(tmp_path: Path) -> None:
    slow = Slow()
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch = batch_of(router)
        await until(lambda: said(router) == 2)
        burst = [asyncio.create_task(router.complete("interactive", stream=True)) for _ in range(3)]
        await asyncio.gather(*burst)
        slow.finish.set()
        assert (await batch).text.count("[DONE]") == 1
        assert slow.asked == ["batch", *["interactive"] * 3, [1, 2, 10, 11]]


async def test_a_client_that_leaves_while_its_stream_is_paused_leaves_nothing_behind(tmp_path: Path) -> None:
    slow = Slow()
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch, _ = await paused(router, slow)
        batch.cancel()
        await until(lambda: router.router.gate.guests.paused == 0)
        assert await router.metric("yields_total", outcome="left") == 1
        await until(lambda: router.router.gate.waiting == 0)
        free(router)
        assert router.is_idle()


async def paused(router: Bench, slow: Slow) -> tuple[asyncio.Task[httpx.Response], Guest]:
    """A batch stream that waits for its turn, behind an engine that is full in the router's books."""
    batch = batch_of(router)
    await until(lambda: said(router) == 2)
    (guest,) = hosted(router)
    slow.serve.clear()
    interactive = asyncio.create_task(router.complete("interactive", stream=True))
    await until(lambda: slow.asked[-1] == "interactive" and guest.paused)
    engine = router.router.fleet.engines["a"]
    engine.running += 5
    engine.changed()
    slow.serve.set()
    await interactive
    return batch, guest


def free(router: Bench) -> None:
    engine = router.router.fleet.engines["a"]
    engine.running -= 5
    engine.changed()
    router.router.gate.wake()


async def test_it_waits_longer_than_a_request_that_has_not_begun_may(tmp_path: Path) -> None:
    slow = Slow()
    short = wire.Admission(max_running_per_engine=1, max_queue_seconds=1)
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=short) as router:
        batch, _ = await paused(router, slow)
        refused = await router.complete("interactive", stream=True)
        assert refused.status_code == 503
        slow.finish.set()
        free(router)
        assert "[DONE]" in (await batch).text


async def test_it_waits_for_engines_to_come_back(tmp_path: Path) -> None:
    slow = Slow()
    engine = one_slow(slow)
    async with bench(tmp_path, engine, disaggregated=False, admission=ONE_EACH) as router:
        batch, _ = await paused(router, slow)
        router.write_fleet()
        await until(lambda: len(router.router.fleet) == 0)
        slow.finish.set()
        router.write_fleet(engine)
        assert "[DONE]" in (await batch).text


async def test_its_answer_lives_no_longer_than_any(tmp_path: Path) -> None:
    slow = Slow()
    short = wire.Timeouts(answer_seconds=1)
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH, timeouts=short) as router:
        batch, _ = await paused(router, slow)
        reply = await batch
        assert "The answer took longer than 1 s" in reply.text
        assert await router.metric("yields_total", outcome="left") == 1


async def test_a_router_that_stops_does_not_wait_for_a_paused_stream_for_ever(tmp_path: Path) -> None:
    slow = Slow()
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH) as router:
        batch, _ = await paused(router, slow)
        await router.router.close(grace_seconds=0.2)
        assert router.router.gate.guests.paused == 0
        assert router.router.gate.waiting == 0
        with pytest.raises(httpx.RemoteProtocolError):
            await batch


async def test_a_paused_stream_that_no_engine_can_go_on_with_ends_with_an_error_that_says_why(tmp_path: Path) -> None:
    slow = Slow()
    engine = one_slow(slow)
    async with bench(tmp_path, engine, disaggregated=False, admission=ONE_EACH) as router:
        batch, _ = await paused(router, slow)

        async def refuse(_: FakeEngine, __: Request, response: Response) -> None:
            response.send(400, b'{"error":{"message":"no"}}')

        engine.behaviour = refuse
        free(router)
        reply = await batch
        assert "interrupted for a request of higher priority" in reply.text
        assert await router.metric("yields_total", outcome="failed") == 1
        assert await router.metric("requests_total", outcome="broken", path="/v1/completions") == 1


async def test_the_pause_is_no_miss_of_the_time_between_tokens(tmp_path: Path) -> None:
    slow = Slow()
    patient = wire.Objective(ttft_milliseconds=60_000, itl_milliseconds=60_000)
    async with bench(tmp_path, one_slow(slow), disaggregated=False, admission=ONE_EACH, objective=patient) as router:
        batch, guest = await paused(router, slow)
        assert guest.paused_at is not None
        assert guest.transcript is not None
        assert guest.transcript.begun_at is not None
        guest.paused_at -= 3600  # it began an hour ago, and was interrupted at once
        guest.transcript.begun_at -= 3600
        slow.finish.set()
        free(router)
        await batch
        assert await router.metric("slo_requests_total", **{"class": "default", "met": "yes"}) == 2
        assert await router.metric("objective_total", ttft="met", itl="met") == 2
