"""A request whose engines fail: what the client sees of it, and who goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paceline.api import wire
from tests.waiting import until
from tests.worker.router.fakes import (
    DONE,
    LONG,
    Behaviour,
    FakeEngine,
    bench,
    cut,
    engines,
    event,
    hang,
    status,
    stream_of,
    stream_then_hang,
)

PREFILL = wire.Role.PREFILL


# --- the prefill side fails: the client does not notice


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(status(500), id="error"),
        pytest.param(status(400), id="refusal"),
        pytest.param(status(200, b"garbage"), id="garbage"),
        pytest.param(status(200, b'{"id":"x"}'), id="no parameters"),
        pytest.param(status(200, b'{"kv_transfer_params":null}'), id="null parameters"),
        pytest.param(status(200, b'{"kv_transfer_params":[1]}'), id="odd parameters"),
        pytest.param(cut, id="nothing"),
    ],
)
async def test_when_prefill_fails_the_decode_engine_computes_the_prompt(tmp_path: Path, behaviour: Behaviour) -> None:
    decode, prefill = engines()
    prefill.behaviour = behaviour
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.complete(LONG, stream=True)
        assert reply.status_code == 200
        assert reply.content.endswith(DONE)
        assert router.is_idle()
        assert await router.metric("remote_prefill_total", outcome="failed") == 1
    assert "kv_transfer_params" not in decode.seen[0].body


async def test_a_prefill_engine_that_is_gone_costs_one_refused_connection(tmp_path: Path) -> None:
    decode, prefill = engines()
    async with bench(tmp_path, decode, prefill) as router:
        await prefill.stop()
        for _ in range(3):
            assert (await router.complete(LONG)).status_code == 200
        assert await router.metric("remote_prefill_total", outcome="failed") <= 1
        assert not router.router.fleet.engines["prefill"].usable


async def test_a_prefill_engine_that_dies_with_requests_in_flight_loses_none(tmp_path: Path) -> None:
    decode, prefill = engines()
    prefill.behaviour = hang
    async with bench(tmp_path, decode, prefill) as router:
        replies = [asyncio.create_task(router.complete(LONG)) for _ in range(10)]
        await until(lambda: len(prefill.seen) == 10)
        await prefill.stop()
        assert [reply.status_code for reply in await asyncio.gather(*replies)] == [200] * 10
        assert router.is_idle()


async def test_a_prefill_engine_that_leaves_the_fleet_is_not_waited_for(tmp_path: Path) -> None:
    decode, prefill = engines()
    prefill.behaviour = hang
    async with bench(tmp_path, decode, prefill) as router:
        reply = asyncio.create_task(router.complete(LONG))
        await prefill.hanging.wait()
        router.write_fleet(decode)
        assert (await reply).status_code == 200
        await asyncio.wait_for(prefill.abandoned.wait(), 60)


# --- the decode side fails before the first byte: another engine


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(status(500), id="error"),
        pytest.param(status(503), id="unavailable"),
        pytest.param(status(200, b"<html>"), id="garbage"),
        pytest.param(stream_of(b"<html>"), id="no stream"),
        pytest.param(stream_of(), id="empty stream"),
        pytest.param(stream_of(cut=True), id="cut before the first byte"),
        pytest.param(cut, id="nothing"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_decode_engine_that_fails_before_the_first_byte_is_replaced(
    tmp_path: Path, behaviour: Behaviour, stream: bool
) -> None:
    broken, sound, prefill = FakeEngine("a"), FakeEngine("b"), FakeEngine("p", role=PREFILL)
    broken.behaviour = behaviour
    async with bench(tmp_path, broken, sound, prefill) as router:
        for number in range(12):
            reply = await router.complete(f"{number} {LONG}", stream=stream)
            assert reply.status_code == 200
            assert b"b:4" in reply.content or b"from b" in reply.content
        assert router.is_idle()
        assert await router.metric("requests_total", outcome="ok", path="/v1/completions") == 12
    assert broken.seen, "both engines were tried"
    assert len(prefill.seen) == len(broken.seen) + len(sound.seen), "a new decode engine needs a new prefill"


async def test_when_every_engine_fails_the_client_gets_an_error_object(tmp_path: Path) -> None:
    broken, prefill = engines()
    broken.behaviour = cut
    async with bench(tmp_path, broken, prefill) as router:
        reply = await router.complete()
        assert await router.metric("requests_total", outcome="upstream_error", path="/v1/completions") == 1
    assert reply.status_code == 502
    assert reply.json()["error"] == {
        "message": reply.json()["error"]["message"], "type": "upstream_error", "param": None, "code": 502,
    }  # fmt: skip
    assert "Engine decode failed" in reply.json()["error"]["message"]


async def test_an_engine_that_never_answers_ends_in_a_timeout(tmp_path: Path) -> None:
    decode, prefill = engines()
    decode.behaviour = hang
    async with bench(tmp_path, decode, prefill, timeouts=wire.Timeouts(first_byte_milliseconds=100)) as router:
        reply = await router.complete()
        assert reply.status_code == 504
        assert "no answer within 0.1 s" in reply.json()["error"]["message"]
        await asyncio.wait_for(decode.abandoned.wait(), 60)


async def test_retries_are_bounded_by_a_budget(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b")
    one.behaviour = two.behaviour = status(500)
    async with bench(tmp_path, one, two) as router:
        replies = [await router.complete() for _ in range(40)]
    assert {reply.status_code for reply in replies} == {500}
    assert len(one.seen) + len(two.seen) < 40 * 2


# --- the decode side fails afterwards


async def test_a_stream_that_breaks_ends_with_an_error_event(tmp_path: Path) -> None:
    decode, prefill = engines()
    decode.behaviour = stream_of(event("a"), b"data: half an ev", cut=True)
    async with bench(tmp_path, decode, prefill) as router:
        reply = await router.complete(stream=True)
        assert router.is_idle()
        assert await router.metric("requests_total", outcome="broken", path="/v1/completions") == 1
    assert reply.status_code == 200
    assert reply.content.startswith(event("a"))
    last = reply.text.rstrip("\n").rpartition("\n\n")[2]
    assert last.startswith('data: {"error":')
    assert "closed the connection in the middle of its answer" in last
    assert len(decode.seen) == 1, "what was sent can't be taken back"


async def test_a_stream_that_stalls_ends_with_an_error_event(tmp_path: Path) -> None:
    decode, prefill = engines()
    decode.behaviour = stream_then_hang
    async with bench(tmp_path, decode, prefill, timeouts=wire.Timeouts(idle_milliseconds=100)) as router:
        reply = await router.complete(stream=True)
        assert "nothing more of the answer within 0.1 s" in reply.text
        await asyncio.wait_for(decode.abandoned.wait(), 60)
