"""Engines die in the middle of streams, and clients do not notice. The engines are emulators in processes of their own:
what they say next is a function of all tokens so far, so a token twice, missing or wrong changes all that follow.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from paceline.api import wire
from paceline_worker.http.server import Request, Response
from paceline_worker.router.resume.resumer import REPLACEMENT
from tests.contract.emulated import emulator
from tests.contract.engines import Engine
from tests.waiting import until
from tests.worker.router.fakes import DONE, MODEL, Bench, FakeEngine, bench, event, stream_of

TOKENS = 60
PROMPT = "Once upon a time there was a router. " * 3


@asynccontextmanager
async def routed(tmp_path: Path, count: int = 2, **changes: Any) -> AsyncIterator[tuple[Bench, list[Engine]]]:
    """Emulators behind a router, all in both roles."""
    async with AsyncExitStack() as stack:
        engines = [
            stack.enter_context(emulator(tmp_path / f"log-{number}", "--enable-faults", "--speed", "20", model=MODEL))
            for number in range(count)
        ]
        router = await stack.enter_async_context(bench(tmp_path, disaggregated=False, **changes))
        router.write_fleet(
            *(
                FakeEngine(f"pod-{number}", role=wire.Role.BOTH, port=int(engine.url.rpartition(":")[2]))
                for number, engine in enumerate(engines)
            )
        )
        await until(lambda: len(router.router.fleet) == count)
        yield router, engines


async def set_fault(engine: Engine, **fault: Any) -> None:
    async with httpx.AsyncClient() as http:
        (await http.post(f"{engine.url}/emulator/faults", json=fault)).raise_for_status()


async def all_die_but_the_last(engines: list[Engine], *, after: int) -> None:
    for engine in engines[:-1]:
        await set_fault(engine, dieAfterTokens=after)


async def only(router: Bench, chosen: int) -> None:
    """Make one engine take the next request, by filling up the others in the router's books."""
    for number, engine in enumerate(sorted(router.router.fleet, key=lambda engine: engine.name)):
        engine.running = 0 if number == chosen else 10
        engine.changed()


async def free(router: Bench) -> None:
    for engine in router.router.fleet:
        engine.running = 0
        engine.changed()


async def stream(router: Bench, path: str, **body: Any) -> list[dict[str, Any]]:
    prompt = {"messages": [{"role": "user", "content": PROMPT}]} if "chat" in path else {"prompt": PROMPT}
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        **prompt,
        **body,
    }
    reply = await router.client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", lines[-2:]
    return [json.loads(line) for line in lines[:-1]]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for told in events
        for choice in told["choices"]
    )


def reasons(events: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for told in events for choice in told["choices"] if choice["finish_reason"]]


def shape(told: Any) -> Any:
    """Field names, all the way down."""
    if isinstance(told, dict):
        return {key: shape(value) for key, value in told.items()}
    return [shape(value) for value in told] if isinstance(told, list) else None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("after", [1, TOKENS - 2])
async def test_a_stream_whose_engine_dies_is_the_stream_of_one_that_lives(
    tmp_path: Path, path: str, after: int
) -> None:
    options = {"stream_options": {"include_usage": True}}
    async with routed(tmp_path) as (router, engines):
        await only(router, 1)
        whole = await stream(router, path, **options)
        await free(router)
        await all_die_but_the_last(engines, after=after)
        await only(router, 0)
        broken = await stream(router, path, **options)
        resumed = await router.metric("resumes_total", outcome="ok")
        retried = await router.metric("retries_total", reason="UpstreamClosed")
    assert text_of(broken) == text_of(whole)
    assert broken[-1]["usage"] == whole[-1]["usage"]
    assert reasons(broken) == reasons(whole)
    assert len({(told["id"], told["created"], told["model"], told["object"]) for told in broken}) == 1
    assert shape(broken[-2]) | {"system_fingerprint": None} == shape(whole[-2]) | {"system_fingerprint": None}
    assert resumed + retried == 1


async def test_engine_after_engine_may_die(tmp_path: Path) -> None:
    async with routed(tmp_path, 4) as (router, engines):
        await only(router, 3)
        whole = await stream(router, "/v1/completions")
        await free(router)
        await all_die_but_the_last(engines, after=12)
        for engine in router.router.fleet:
            if engine.name == "pod-3":
                engine.running = 5
        broken = await stream(router, "/v1/completions")
    assert text_of(broken) == text_of(whole)


async def test_the_openai_client_sees_one_stream(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await all_die_but_the_last(engines, after=9)
        await only(router, 0)
        client = openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none")
        parts = []
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], stream=True, max_tokens=40, temperature=0
        ):
            parts += [choice.delta.content or "" for choice in chunk.choices]
        again = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_tokens=40, temperature=0
        )
        await client.close()
    assert "".join(parts) == again.choices[0].message.content


async def test_a_stop_string_that_was_half_said_still_stops(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await only(router, 1)
        free_text = text_of(await stream(router, "/v1/completions"))
        stop = free_text[18:24]
        whole = await stream(router, "/v1/completions", stop=[stop])
        await free(router)
        await all_die_but_the_last(engines, after=20)
        await only(router, 0)
        broken = await stream(router, "/v1/completions", stop=[stop])
    assert text_of(broken) == text_of(whole)
    assert broken[-1]["choices"][0]["finish_reason"] == "stop"


async def test_token_ids_go_on_where_the_client_asked_for_them(tmp_path: Path) -> None:
    def ids(events: list[dict[str, Any]]) -> list[int]:
        return [token for told in events for choice in told["choices"] for token in choice["token_ids"] or ()]

    async with routed(tmp_path) as (router, engines):
        await only(router, 1)
        whole = await stream(router, "/v1/completions", return_token_ids=True)
        await free(router)
        await all_die_but_the_last(engines, after=11)
        await only(router, 0)
        broken = await stream(router, "/v1/completions", return_token_ids=True)
    assert ids(broken) == ids(whole)
    assert len(ids(broken)) == TOKENS


async def test_what_can_not_go_on_exactly_ends_with_an_error_that_says_why(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await all_die_but_the_last(engines, after=5)
        await only(router, 0)
        reply = await router.complete(PROMPT, stream=True, max_tokens=TOKENS, seed=3, temperature=1)
        assert await router.metric("requests_total", outcome="broken", path="/v1/completions") == 1
    last = json.loads(reply.text.rstrip("\n").rpartition("\n\n")[2].removeprefix("data: "))
    assert "it sets seed" in last["error"]["message"]


async def test_an_engine_that_does_not_tell_its_tokens_can_not_be_followed(tmp_path: Path) -> None:
    silent, other = FakeEngine("a", role=wire.Role.BOTH), FakeEngine("b", role=wire.Role.BOTH)
    silent.behaviour = other.behaviour = stream_of(event("a"), cut=True)
    async with bench(tmp_path, silent, other, disaggregated=False) as router:
        reply = await router.complete(stream=True)
        assert await router.metric("resumes_total", outcome="inexact") == 1
    assert "did not tell the tokens" in reply.text


def told(text: str, *ids: int, prompt: bool = False) -> bytes:
    """One event of a completion, with its token ids."""
    choice = {"text": text, "token_ids": ids, "prompt_token_ids": [1, 2] if prompt else None}
    document = json.loads(event("").removeprefix(b"data: "))
    document["choices"][0] |= choice
    return b"data: %b\n\n" % json.dumps(document).encode()


@pytest.mark.parametrize(
    ("tail", "goes_on_from", "rest", "text"),
    [
        ("c", [1, 2, 10, 11, 12], [told("ef", 13)], "abcef"),
        (f"c{REPLACEMENT}", [1, 2, 10], [told("c", 11), told("", 12), told("é", 13)], "abcé"),
    ],
    ids=["whole", "half"],
)
async def test_after_tokens_that_came_together_it_goes_back_only_for_half_a_character(
    tmp_path: Path, tail: str, goes_on_from: list[int], rest: list[bytes], text: str
) -> None:
    first, other = FakeEngine("a", role=wire.Role.BOTH), FakeEngine("b", role=wire.Role.BOTH)
    asked: dict[str, Any] = {}

    async def behave(engine: FakeEngine, request: Request, response: Response) -> None:
        body = json.loads(request.body)
        if request.path == "/detokenize":
            asked["ids"] = body["tokens"]
            response.send(200, json.dumps({"prompt": tail}).encode())
        elif isinstance(body["prompt"], str):
            # The second event: one token of text, and one that may be half a character.
            await stream_of(told("ab", 10, prompt=True), told("c", 11, 12), cut=True)(engine, request, response)
        else:
            asked["prompt"] = body["prompt"]
            await stream_of(*rest, DONE)(engine, request, response)

    first.behaviour = other.behaviour = behave
    async with bench(tmp_path, first, other, disaggregated=False) as router:
        events = await stream(router, "/v1/completions", prompt="once")
    assert asked == {"ids": [11, 12], "prompt": goes_on_from}
    assert text_of(events) == text


async def test_a_stream_that_lacks_only_its_closing_event_is_closed(tmp_path: Path) -> None:
    one = FakeEngine("a", role=wire.Role.BOTH)
    last = event("b").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    one.behaviour = stream_of(event("a"), last)
    async with bench(tmp_path, one, disaggregated=False) as router:
        reply = await router.complete(stream=True)
        assert len(one.seen) == 1
    assert reply.content == event("a") + last + DONE


async def test_a_stream_whose_engine_stands_still_goes_on_elsewhere(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await only(router, 1)
        whole = await stream(router, "/v1/completions", max_tokens=2000)
        await free(router)
        await set_fault(engines[0], slow=200)  # it is not done before it stands still
        await only(router, 0)
        broken = asyncio.create_task(stream(router, "/v1/completions", max_tokens=2000))
        first = router.router.fleet.engines["pod-0"]
        await until(lambda: router.router.pool.silence(first.address) is not None, seconds=60)
        await set_fault(engines[0], freeze=True)  # its checks are still answered
        router.router._watch._stall_seconds = 0.5
        assert text_of(await broken) == text_of(whole)
        assert first.health.ejections >= 1
        assert await router.metric("resumes_total", outcome="ok") >= 1


async def test_a_request_at_an_engine_that_was_stopped_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline_worker.router.watch.SILENT_SECONDS", 0.5)
    async with routed(tmp_path) as (router, engines):
        router.router._watch._check_seconds = 0.3
        await only(router, 1)
        whole = await stream(router, "/v1/completions", max_tokens=2000)
        await free(router)
        await set_fault(engines[0], slow=200)
        await only(router, 0)
        streamed = asyncio.create_task(stream(router, "/v1/completions", max_tokens=2000))
        first = router.router.fleet.engines["pod-0"]
        await until(lambda: router.router.pool.silence(first.address) is not None, seconds=60)
        os.kill(engines[0].pid, signal.SIGSTOP)
        try:
            await only(router, 0)
            answered = await asyncio.wait_for(router.complete(PROMPT, max_tokens=10), 60)
            assert answered.status_code == 200
            assert text_of(await streamed) == text_of(whole)
        finally:
            os.kill(engines[0].pid, signal.SIGCONT)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await all_die_but_the_last(engines, after=7)
        await only(router, 0)
        await stream(router, "/v1/completions")
        await free(router)
        await until(lambda: router.router.pool.connections == router.router.pool.idle)
        assert router.router.gate.waiting == 0
