"""One request through the router: prefill on one engine, decode on another; clients that leave, and room."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from paceline.api import wire
from tests.waiting import until
from tests.worker.router.fakes import (
    DONE,
    KV,
    LONG,
    MODEL,
    FakeEngine,
    answer,
    bench,
    engines,
    event,
    hang,
    status,
    stream_of,
    stream_then_hang,
)

# --- how long an answer may live


async def test_a_stream_that_lives_too_long_ends_with_an_error_event_and_its_engine_is_told(tmp_path: Path) -> None:
    engine = FakeEngine("a", behaviour=stream_then_hang)
    async with bench(tmp_path, engine, timeouts=wire.Timeouts(answer_seconds=1)) as router:
        reply = await router.complete(stream=True)
        assert reply.status_code == 200
        assert "begun" in reply.text
        assert "longer than 1 s" in reply.text
        await engine.abandoned.wait()
        await until(router.is_idle)
        assert await router.metric("requests_total", outcome="expired", path="/v1/completions") == 1


async def test_an_answer_that_takes_too_long_to_begin_is_a_504(tmp_path: Path) -> None:
    engine = FakeEngine("a", behaviour=hang)
    async with bench(tmp_path, engine, timeouts=wire.Timeouts(answer_seconds=1)) as router:
        reply = await router.complete()
        assert reply.status_code == 504
        assert "longer than 1 s" in reply.json()["error"]["message"]
        await engine.abandoned.wait()
        await until(router.is_idle)


# --- the good path


async def test_a_long_prompt_is_prefilled_elsewhere_and_its_kv_params_go_to_the_decode_engine(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.complete(LONG, max_tokens=5, temperature=0.5, x_unknown={"kept": [1, 2.50]})
        assert reply.json()["choices"][0]["text"] == "from decode"
        assert router.is_idle()
        assert await router.metric("remote_prefill_total", outcome="ok") == 1
        assert await router.metric("requests_total", outcome="ok", path="/v1/completions") == 1
    asked_to_prefill, asked_to_decode = prefill.seen[0], decode.seen[0]
    assert asked_to_prefill.is_prefill
    assert asked_to_prefill.body["max_tokens"] == 1
    assert asked_to_prefill.body["stream"] is False
    assert asked_to_prefill.body["prompt"] == LONG
    assert asked_to_decode.body == {
        "model": MODEL, "prompt": LONG, "max_tokens": 5, "temperature": 0.5, "x_unknown": {"kept": [1, 2.5]},
        "kv_transfer_params": KV,
    }  # fmt: skip
    assert asked_to_prefill.request_id == asked_to_decode.request_id == reply.headers["x-request-id"]


async def test_a_stream_comes_back_byte_for_byte(tmp_path: Path) -> None:
    decode, prefill = engines()
    pieces = [event("a"), event("b") + event("c"), event("d"), DONE]
    decode.behaviour = stream_of(*pieces)
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.complete(LONG, stream=True, stream_options={"include_usage": True})
        assert await router.metric("time_to_first_token_seconds_count") == 1
        assert await router.metric("inter_token_latency_seconds_count") == 1
    assert reply.content == b"".join(pieces)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert decode.seen[0].body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in prefill.seen[0].body


async def test_a_short_prompt_stays_with_its_decode_engine(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        await router.complete("short")
        assert await router.metric("remote_prefill_total", outcome="skipped") == 1
    assert prefill.seen == []
    assert "kv_transfer_params" not in decode.seen[0].body


@pytest.mark.parametrize(
    "extra",
    [{"n": 2}, {"echo": True}, {"prompt_logprobs": 1}, {"use_beam_search": True}],
    ids=lambda extra: next(iter(extra)),
)
async def test_what_one_transfer_can_not_serve_is_computed_by_the_decode_engine(
    tmp_path: Path, extra: dict[str, object]
) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        assert (await router.complete(LONG, **extra)).status_code == 200
    assert prefill.seen == []


async def test_several_prompts_in_one_request_are_computed_by_the_decode_engine(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        assert (await router.complete([LONG, LONG])).status_code == 200
        assert (await router.complete([[1] * 2000, [2] * 2000])).status_code == 200
        assert prefill.seen == []
        assert (await router.complete([1] * 2000)).status_code == 200
    assert len(prefill.seen) == 1


async def test_an_aggregated_deployment_never_prefills_remotely(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill, disaggregated=False) as router:
        for _ in range(6):
            assert (await router.complete(LONG)).status_code == 200
    assert not any(seen.is_prefill for seen in decode.seen + prefill.seen)


async def test_engines_of_different_revisions_never_work_together(tmp_path: Path) -> None:
    decode, prefill = engines()
    prefill.revision = "r2"
    async with bench(tmp_path, decode, prefill) as router:
        assert (await router.complete(LONG)).status_code == 200
    assert prefill.seen == []


async def test_chat_embeddings_and_tokenize_are_served_too(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        chat = {"model": "alias", "messages": [{"role": "user", "content": LONG}], "max_completion_tokens": 9}
        assert (await router.client.post("/v1/chat/completions", json=chat)).status_code == 200
        for path, body in (
            ("/v1/embeddings", {"model": MODEL, "input": "x"}),
            ("/tokenize", {"prompt": LONG}),
            ("/detokenize", {"tokens": [1, 2]}),
        ):
            assert (await router.client.post(path, json=body)).status_code == 200
            assert decode.seen[-1].path == path
            assert decode.seen[-1].body == body
    assert [seen.path for seen in prefill.seen] == ["/v1/chat/completions"]
    assert "max_completion_tokens" not in prefill.seen[0].body
    assert decode.seen[0].body["max_completion_tokens"] == 9


async def test_headers_and_query_go_through_and_a_given_request_id_is_kept(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.client.post(
            "/v1/completions?x=1",
            json={"model": MODEL, "prompt": LONG},
            headers={"X-Request-Id": "mine", "Authorization": "Bearer t", "TE": "trailers"},
        )
    assert reply.headers["x-request-id"] == "mine"
    for engine in (decode, prefill):
        assert engine.seen[0].request_id == "mine"
        assert engine.seen[0].headers[b"authorization"] == b"Bearer t"
        assert b"te" not in engine.seen[0].headers


async def test_a_refusal_by_the_engine_reaches_the_client_as_it_is(tmp_path: Path) -> None:
    decode, prefill = engines()
    decode.behaviour = status(400, b'{"error":{"message":"too long","code":400}}')
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.complete(stream=True)
        assert await router.metric("requests_total", outcome="client_error", path="/v1/completions") == 1
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "too long"
    assert len(decode.seen) == 1


# --- the client goes away


@pytest.mark.parametrize("where", ["prefill", "decode", "stream"])
async def test_a_client_that_goes_away_takes_its_upstream_request_along(tmp_path: Path, where: str) -> None:
    decode, prefill = engines()
    busy = prefill if where == "prefill" else decode
    busy.behaviour = stream_then_hang if where == "stream" else hang
    async with bench(tmp_path, decode, prefill) as router:
        request = asyncio.create_task(router.complete(LONG, stream=where == "stream"))
        await asyncio.wait_for(busy.hanging.wait(), 60)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(busy.abandoned.wait(), 60)
        await until(router.is_idle)
        assert await router.metric("requests_total", outcome="cancelled", path="/v1/completions") == 1
        assert where != "prefill" or decode.seen == []


async def test_a_client_that_reads_slowly_slows_the_engine_down_instead_of_filling_the_router(tmp_path: Path) -> None:
    decode, prefill = engines()
    total, written = 3000, 0
    piece = event("x" * 10_000)

    async def pour(engine: FakeEngine, request: object, response: object) -> None:
        nonlocal written
        response.start(200, ((b"content-type", b"text/event-stream"),))  # type: ignore[attr-defined]
        for _ in range(total):
            response.write(piece)  # type: ignore[attr-defined]
            await response.drain()  # type: ignore[attr-defined]
            written += 1
        response.write(DONE)  # type: ignore[attr-defined]
        response.end()  # type: ignore[attr-defined]

    decode.behaviour = pour
    async with (
        bench(tmp_path, decode, prefill) as router,
        router.client.stream("POST", "/v1/completions", json={"model": MODEL, "prompt": "x", "stream": True}) as reply,
    ):
        stalled_at = -1
        while stalled_at != written or written == 0:
            stalled_at = written
            await asyncio.sleep(0.1)
        assert written < total
        received = 0
        async for part in reply.aiter_raw():
            received += len(part)
    assert received == total * len(piece) + len(DONE)


# --- room


async def test_without_an_engine_a_request_waits_for_one(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        router.write_fleet()
        await until(lambda: len(router.router.fleet) == 0)
        request = asyncio.create_task(router.complete())
        await until(lambda: router.router.gate.waiting == 1)
        assert (await router.client.get(f"{router.admin_url}/readyz")).status_code == 503
        assert (await router.client.get("/health")).status_code == 503
        router.write_fleet(decode)
        assert (await request).status_code == 200


async def test_a_wait_that_is_too_long_ends_with_503_and_retry_after(tmp_path: Path) -> None:
    async with bench(tmp_path, admission=wire.Admission(max_queue_seconds=1)) as router:
        reply = await router.complete()
        assert await router.metric("rejections_total", reason="no-engine") == 1
        assert await router.metric("requests_total", outcome="rejected", path="/v1/completions") == 1
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert "no engine is usable" in reply.json()["error"]["message"]


async def test_a_full_queue_ends_with_429_and_retry_after(tmp_path: Path) -> None:
    decode, prefill = engines()
    decode.behaviour = hang
    admission = wire.Admission(max_running_per_engine=1, max_queued_requests=1, max_queue_seconds=30)
    async with bench(tmp_path, decode, prefill, admission=admission) as router:
        first = asyncio.create_task(router.complete())
        await asyncio.wait_for(decode.hanging.wait(), 60)
        second = asyncio.create_task(router.complete())
        await until(lambda: router.router.gate.waiting == 1)
        reply = await router.complete()
        assert reply.status_code == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 30
        assert await router.metric("rejections_total", reason="queue-full") == 1
        decode.behaviour = answer
        first.cancel()
        assert (await second).status_code == 200, "the one that waited gets the room"
        assert router.is_idle()


async def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(tmp_path: Path) -> None:
    async with bench(tmp_path) as router:
        request = asyncio.create_task(router.complete())
        await until(lambda: router.router.gate.waiting == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await until(lambda: router.router.gate.waiting == 0)


# --- nothing is left behind


@pytest.mark.parametrize("stream", [True, False])
async def test_many_requests_leave_no_task_no_socket_and_no_load_behind(
    tmp_path: Path, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    decode, prefill = engines()
    other = FakeEngine("other")
    with caplog.at_level(logging.ERROR):
        async with bench(tmp_path, decode, other, prefill) as router:
            await router.complete(LONG, stream=stream)
            tasks_before = len(asyncio.all_tasks())

            async def one(number: int) -> int:
                if number % 10 == 0:
                    try:
                        return (await asyncio.wait_for(router.complete(LONG, stream=stream), 0.001)).status_code
                    except TimeoutError:
                        return 200
                return (await router.complete(LONG, stream=stream)).status_code

            for _ in range(4):
                assert set(await asyncio.gather(*(one(number) for number in range(50)))) == {200}
            await until(router.is_idle)
            await router.client.aclose()
            server = router.router._server  # the test looks inside on purpose
            assert server is not None
            await until(lambda: server.connections == 0)
            await until(lambda: len(asyncio.all_tasks()) <= tasks_before)
            assert router.router.pool.connections <= 3 * 50
            router.client = httpx.AsyncClient()
    assert caplog.records == []
