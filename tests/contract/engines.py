"""What the contract suite knows of the two engines it runs against, and small clients for their wire formats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import zmq
import zmq.asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.series import total

Json = dict[str, Any]

REMOTE_DECODE: Json = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""Asks an engine to hold the blocks of a prompt for another one."""

TRANSFERRED = "vllm:prompt_tokens_by_source_total"
FAILED = "vllm:nixl_num_failed_transfers_total"
"""Counts, with the label ``source="external_kv_transfer"``, prompt tokens whose blocks came from another engine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine under test. URLs without a trailing slash; ZMQ endpoints to connect to."""

    url: str
    kv_events: str
    kv_replay: str
    pid: int = 0
    """Of its process, where a test may signal it."""


@dataclass(frozen=True, slots=True)
class Engines:
    """Two engines of the same model that can exchange KV blocks."""

    a: Engine
    b: Engine
    model: str
    block_size: int
    max_model_len: int


def client(engine: Engine) -> httpx.AsyncClient:
    """An HTTP client for one engine."""
    return httpx.AsyncClient(base_url=engine.url, timeout=180.0, trust_env=False)


async def complete(engine: Engine, body: Json, path: str = "/v1/completions") -> Json:
    """One request that must succeed."""
    async with client(engine) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()
    return result


async def refused(engine: Engine, body: Json | bytes, path: str = "/v1/completions") -> httpx.Response:
    """One request that must not succeed; its answer."""
    async with client(engine) as http:
        if isinstance(body, bytes):
            return await http.post(path, content=body, headers={"content-type": "application/json"})
        return await http.post(path, json=body)


async def stream(engine: Engine, body: Json, path: str = "/v1/completions") -> list[Json]:
    """The JSON events of a streamed request. Checks the framing: ``data: …`` events, blank lines, a last ``[DONE]``."""
    async with client(engine) as http, http.stream("POST", path, json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        raw = (await answer.aread()).decode()
    assert raw.endswith("\n\n")
    events = raw[:-2].split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events), events
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


async def tokens_of(engine: Engine, text: str, model: str) -> list[int]:
    """Token ids of a text, by the engine's own tokenizer."""
    answer = await complete(engine, {"model": model, "prompt": text}, "/tokenize")
    tokens: list[int] = answer["tokens"]
    return tokens


async def metrics(engine: Engine) -> dict[str, tuple[str, list[tuple[str, dict[str, str], float]]]]:
    """Family name -> (type, samples as (name, labels, value))."""
    async with client(engine) as http:
        text = (await http.get("/metrics")).text
    return {
        family.name: (family.type, [(s.name, dict(s.labels), s.value) for s in family.samples])
        for family in text_string_to_metric_families(text)
    }


async def metric(engine: Engine, sample: str, **labels: str) -> float:
    """Sum of the samples of one name whose labels include ``labels``; 0 when there is none."""
    async with client(engine) as http:
        return total((await http.get("/metrics")).text, sample, **labels)


async def grown(
    engine: Engine, sample: str, before: float, *, by: float = 1, seconds: float = 60.0, **labels: str
) -> float:
    """How much a counter has grown since it was ``before``, as soon as that is ``by`` or ``seconds`` are over.

    vLLM counts a step after it has answered the requests of it: a client that asks at once may be ahead of the counter.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    # The engine is another process: there is no event to await.
    while (growth := await metric(engine, sample, **labels) - before) < by and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return growth


async def idle(engine: Engine, seconds: float = 30.0) -> None:
    """Return when the engine has no request any more; TimeoutError after ``seconds``."""
    async with asyncio.timeout(seconds):
        # The engine is another process: there is no event to await.
        while await metric(engine, "vllm:num_requests_running") + await metric(engine, "vllm:num_requests_waiting"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Batch:
    """One message of an engine's event stream."""

    topic: bytes
    sequence: int
    timestamp: float
    events: list[Json]


def parse_batch(topic: bytes, sequence: bytes, payload: bytes) -> Batch:
    """Three frames as they come from the wire."""
    assert len(sequence) == 8
    decoded = msgspec.msgpack.decode(payload)
    return Batch(topic, int.from_bytes(sequence, "big"), decoded[0], decoded[1])


@asynccontextmanager
async def subscription(engine: Engine) -> AsyncIterator[zmq.asyncio.Socket]:
    """A subscriber to all of an engine's cache events."""
    context = zmq.asyncio.Context()
    subscriber = context.socket(zmq.SUB)
    try:
        subscriber.subscribe(b"")
        subscriber.connect(engine.kv_events)
        yield subscriber
    finally:
        subscriber.close(linger=0)
        context.term()


async def replay(engine: Engine, start: int) -> list[Batch]:
    """What the engine still has from sequence number ``start`` on, by its replay endpoint."""
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.connect(engine.kv_replay)
        await dealer.send_multipart([b"", start.to_bytes(8, "big")])
        batches: list[Batch] = []
        async with asyncio.timeout(20):
            while True:
                frames = await dealer.recv_multipart()
                assert len(frames) == 4
                assert frames[0] == b""
                if frames[2] == (-1).to_bytes(8, "big", signed=True):
                    return batches
                batches.append(parse_batch(*frames[1:]))
    finally:
        dealer.close(linger=0)
        context.term()
