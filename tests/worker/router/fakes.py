"""Engines that do what a test tells them, and a router to put before them, all on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from paceline.api import wire
from paceline.local.files import replace
from paceline.policy.routing.fleet import NominalModel
from paceline_worker.http.headers import JSON
from paceline_worker.http.server import Limits, Request, Response, Server, serve
from paceline_worker.router.app import Router
from paceline_worker.router.settings import Settings, placement_settings

MODEL = "test-model"
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
KV = {"do_remote_prefill": True, "do_remote_decode": False, "remote_engine_id": "e", "remote_block_ids": [1, 2]}
LONG = "a long prompt " * 400
"""About 1,400 tokens: worth a remote prefill."""

Behaviour = Callable[["FakeEngine", Request, Response], Awaitable[None]]


def event(text: str) -> bytes:
    document = {
        "id": "cmpl-1", "object": "text_completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}],
    }  # fmt: skip
    return b"data: %b\n\n" % msgspec.json.encode(document)


DONE = b"data: [DONE]\n\n"


async def answer(engine: FakeEngine, request: Request, response: Response) -> None:
    """What a healthy engine does."""
    body = msgspec.json.decode(request.body)
    prefill = (body.get("kv_transfer_params") or {}).get("do_remote_decode")
    if not body.get("stream"):
        document = {
            "id": "cmpl-1", "object": "text_completion", "created": 0, "model": MODEL,
            "choices": [{"index": 0, "text": f"from {engine.name}", "logprobs": None, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
            "kv_transfer_params": KV if prefill else None,
        }  # fmt: skip
        response.send(200, msgspec.json.encode(document), (JSON,))
        return
    response.start(200, (EVENT_STREAM,))
    for number in range(engine.chunks):
        response.write(event(f"{engine.name}:{number} "))
        await response.drain()
    response.write(DONE)
    response.end()


async def hang(engine: FakeEngine, request: Request, response: Response) -> None:
    """Takes the request and never answers."""
    engine.hanging.set()
    try:
        await asyncio.Event().wait()
    finally:
        engine.abandoned.set()


async def cut(engine: FakeEngine, request: Request, response: Response) -> None:
    """Closes the connection without a byte of an answer."""
    response._wire.abort()  # type: ignore[attr-defined]  # no handler of ours may do this, a broken engine does


async def stream_then_hang(engine: FakeEngine, request: Request, response: Response) -> None:
    response.start(200, (EVENT_STREAM,))
    response.write(event("begun "))
    await hang(engine, request, response)


def status(code: int, body: bytes = b'{"error":{"message":"told to"}}') -> Behaviour:
    async def run(engine: FakeEngine, request: Request, response: Response) -> None:
        response.send(code, body, (JSON,))

    return run


def stream_of(*pieces: bytes, cut: bool = False) -> Behaviour:
    """A stream of these pieces; ``cut``: the connection ends in the middle of it."""

    async def run(engine: FakeEngine, request: Request, response: Response) -> None:
        response.start(200, (EVENT_STREAM,))
        for piece in pieces:
            response.write(piece)
            await asyncio.sleep(0)
        if not cut:
            response.end()

    return run


@dataclass
class Seen:
    path: str
    body: dict[str, Any]
    request_id: str
    headers: dict[bytes, bytes]

    @property
    def is_prefill(self) -> bool:
        return bool((self.body.get("kv_transfer_params") or {}).get("do_remote_decode"))


@dataclass
class FakeEngine:
    """An engine that records what it is asked; ``behaviour`` says what it does with it."""

    name: str
    role: wire.Role = wire.Role.DECODE
    state: wire.EngineState = wire.EngineState.READY
    revision: str = "r1"
    start_id: str = "1"
    kv_events: str | None = None
    kv_replay: str | None = None
    behaviour: Behaviour = answer
    chunks: int = 5
    healthy: bool = True
    mute: bool = False
    """Whether it takes health checks and does not answer them."""
    metrics: bytes = b""
    seen: list[Seen] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    checked: asyncio.Event = field(default_factory=asyncio.Event)
    server: Server | None = None
    port: int = 0

    async def start(self) -> None:
        self.server = await serve(self._handle, "127.0.0.1", self.port, limits=Limits())
        self.port = self.server.port

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.close()
            self.server = None

    async def _handle(self, request: Request, response: Response) -> None:
        if request.path == "/health":
            if self.mute:
                self.checked.set()
                await asyncio.Event().wait()
            response.send(200 if self.healthy else 503, b"")
            self.checked.set()
            return
        if request.path == "/metrics":
            response.send(200, self.metrics)
            return
        headers = dict(request.headers)
        request_id = headers.get(b"x-request-id", b"").decode()
        self.seen.append(Seen(request.path, msgspec.json.decode(request.body), request_id, headers))
        await self.behaviour(self, request, response)

    @property
    def endpoint(self) -> wire.EngineEndpoint:
        return wire.EngineEndpoint(
            name=self.name, host="127.0.0.1", port=self.port, role=self.role, state=self.state,
            start_id=self.start_id, revision=self.revision, kv_events=self.kv_events, kv_replay=self.kv_replay,
        )  # fmt: skip


def engines() -> tuple[FakeEngine, FakeEngine]:
    """One for answers and one for prompts."""
    return FakeEngine("decode"), FakeEngine("prefill", role=wire.Role.PREFILL)


@dataclass
class Bench:
    """A router before its fake engines, and a client before the router."""

    router: Router
    client: httpx.AsyncClient
    fleet_file: Path
    engines: list[FakeEngine]
    version: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.router.admin_port}"

    def write_fleet(self, *engines: FakeEngine) -> None:
        self.version += 1
        fleet = wire.Fleet(version=self.version, engines=tuple(engine.endpoint for engine in engines))
        replace(self.fleet_file, wire.encode(fleet))

    async def complete(self, prompt: object = "hello", **body: object) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"model": MODEL, "prompt": prompt, **body})

    async def metric(self, name: str, **labels: str) -> float:
        value = self.router.metrics.registry.get_sample_value(f"paceline_router_{name}", labels)
        return 0.0 if value is None else value

    def is_idle(self) -> bool:
        """Whether no work is accounted to any engine and nothing waits."""
        loads = [(e.running, e.prefilling, e.context_tokens, e.backlog_seconds) for e in self.router.fleet]
        return self.router.gate.waiting == 0 and all(load == (0, 0, 0, 0.0) for load in loads)


def config(**changes: Any) -> wire.RouterConfig:
    defaults: dict[str, Any] = {
        "deployment": "test", "namespace": "default", "served_names": (MODEL, "alias"), "lora_names": ("adapter",),
        "objective": wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50), "max_model_len": 8192,
        "local_prefill_tokens": 100,
    }  # fmt: skip
    return wire.RouterConfig(**(defaults | changes))


@asynccontextmanager
async def bench(
    tmp_path: Path, *engines: FakeEngine, tenant_keys: Path | None = None, **changes: Any
) -> AsyncIterator[Bench]:
    """Start engines and a router; everything is stopped at the end."""
    fleet_file = tmp_path / "fleet.json"
    settings_config = config(**changes)
    settings = Settings(
        host="127.0.0.1", port=0, admin_port=0, fleet_file=fleet_file, config=settings_config, parent_fd=None,
        model=NominalModel(), placement=placement_settings(settings_config, NominalModel()),
        tenant_keys=tenant_keys,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        for engine in engines:
            await engine.start()
            stack.push_async_callback(engine.stop)
        router = Router(settings)
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        running = Bench(router, client, fleet_file, list(engines))
        running.write_fleet(*engines)
        await router.start()
        stack.push_async_callback(router.close, grace_seconds=0)
        client.base_url = httpx.URL(running.url)
        yield running
