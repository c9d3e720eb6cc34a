"""Raw bytes to a whole router before engines that answer well: no crash, no hang, no 5xx for a client's fault.

Most inputs go into the connection's protocol without a socket, which says exactly when the router waits for more; one
in sixteen comes over TCP. The engines are strict as vLLM's server is: JSON that they can't read is a 400.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import shutil
import tempfile
import zlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import uvloop

from paceline.api import wire
from paceline_worker.http.connection import Connection
from paceline_worker.http.headers import JSON
from paceline_worker.http.server import Request, Response, Server
from tests.fuzz.inputs import json_bytes, mutated, spoiled
from tests.fuzz.target import Found
from tests.worker.router.fakes import MODEL, Bench, FakeEngine, answer, bench

KEY: Final = "sk-fuzz-0123456789abcdef"
GOOD_EVERY: Final = 200
"""Inputs between two requests that must be served."""
TCP_EVERY: Final = 16
LONGEST_EXCHANGE: Final = 10.0
ALLOWED_5XX: Final = frozenset({505})
"""The status for a version of HTTP that is not spoken: it is about the request."""

_STATUS: Final = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)

_PATHS: Final = (
    "/v1/completions", "/v1/completions", "/v1/chat/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize",
    "/detokenize", "/v1/models", "/health", "/", "/metrics", "/v1/completions?x=%00", "http://a/v1/completions", "*",
    "//v1/models", "/v1/../health", "http://[::1", "/\xff",
)  # fmt: skip
_NAMES: Final = (
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "min_tokens", "stream", "stream_options", "n",
    "best_of", "echo", "logprobs", "top_logprobs", "prompt_logprobs", "seed", "stop", "temperature", "user", "priority",
    "cache_salt", "kv_transfer_params", "return_token_ids", "thinking_token_budget", "tools", "tool_choice",
    "chat_template", "chat_template_kwargs", "continue_final_message", "add_generation_prompt", "add_special_tokens",
    "documents", "reasoning_effort", "response_format", "use_beam_search", "prompt_embeds", "mm_processor_kwargs",
    "input", "tokens", "role", "content", "type", "text", "image_url", "url", "name", "tool_calls", "function",
)  # fmt: skip
_BODIES: Final[tuple[dict[str, Any], ...]] = (
    {"model": MODEL, "prompt": "hello", "max_tokens": 5},
    {"model": "alias", "prompt": [1, 2, 3], "stream": True, "n": 1, "seed": None},
    {"model": MODEL, "prompt": [[1, 2], [3]], "max_tokens": 1},
    {"model": "adapter", "prompt": ["a", "b"], "echo": True, "priority": 3, "cache_salt": "x"},
    {
        "model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 9,
        "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    },
    {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
    {"model": MODEL, "input": "text", "tokens": [1]},
)  # fmt: skip
_HEADERS: Final = (
    b"X-Request-Id: a", b"X-Request-Id: " + b"r" * 300, b"Accept: */*", b"Connection: close",
    b"Connection: keep-alive, x-paceline-class", b"Expect: 100-continue", b"Expect: x", b"Upgrade: h2c",
    b"Connection: upgrade", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Content-Length: 5",
    b"Content-Length: 0", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length : 1",
    b"Host: b", b"TE: trailers", b"Trailer: x", b"X: a\r\n b", b"x-paceline-priority: 5", b"x-paceline-class: none",
    b"x-paceline-priority: \xb2", b"x-paceline-session: s", b"x-paceline-expected-output-tokens: 9",
    b"x-paceline-reuse: no", b"x-paceline-prefetch: yes", b"x-paceline-explain: only", b"x-paceline-explain: yes",
    b"x-paceline-unknown: 1", b"traceparent: 00-0-0-0", b"Authorization: Bearer", b"Authorization: Bearer \xff",
    b"Authorization: Basic eA==", b"Authorization: bearer  " + KEY.encode(), b"Content-Type: text/plain",
)  # fmt: skip
_TOKENS: Final = (
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"POST ", b"GET ", b"HEAD ", b"0\r\n\r\n", b"5;a=b\r\n", b"ffffffffffffffff",
    b"-1\r\n", b"\r\n\r\n", b"\n\n", b"\r", b"\n", b"\0", b":", b"chunked", b"Content-Length: ", b"\x16\x03\x01",
    b"PRI *",
)  # fmt: skip


class FussyEngine(FakeEngine):
    """Refuses what Python's own JSON refuses."""

    async def _handle(self, request: Request, response: Response) -> None:
        if request.path in ("/health", "/metrics"):
            response.send(200, b"")
            return
        try:
            readable = isinstance(json.loads(request.body), dict)
        except (ValueError, RecursionError):
            readable = False
        if not readable:
            response.send(400, b'{"error":{"message":"no JSON"}}', (JSON,))
            return
        streams = "completions" in request.path and b'"stream":true' in request.body.replace(b" ", b"")
        request.body = b'{"stream":true}' if streams else b"{}"
        await answer(self, request, response)


class MemoryTransport(asyncio.Transport):
    """A socket's stead: keeps what is written, and says when the protocol is ready to read on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._reading = True
        self.closing = False
        self.lost = asyncio.Event()
        self.out = bytearray()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closing:
            self.out += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        self._protocol.connection_lost(None)
        self.lost.set()


class _Defects(logging.Handler):
    """Collects what the program calls a defect of its own: logged exceptions."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class FrontDoor:
    """A router that serves everybody."""

    name = "front-door"
    share = 14
    tenants = False

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="paceline-fuzz-"))
        self._defects = _Defects()
        logging.getLogger("paceline_worker").addHandler(self._defects)
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._defects.found.append(str(context)))
        self._stack = AsyncExitStack()
        self._count = 0
        self._seeds = [_request(random.Random(number), json.dumps(body).encode(), plain=True)
                       for number, body in enumerate(_BODIES)]  # fmt: skip
        self._bench: Bench = self._loop.run_until_complete(self._open())

    async def _open(self) -> Bench:
        changes: dict[str, Any] = {"tokenizer": "bytes"}
        if self.tenants:
            keys = self._folder / "keys"
            keys.mkdir()
            (keys / "one").write_text(KEY + "\n")
            changes |= {"tenancy": wire.Tenancy(tenants=(wire.Tenant(name="one"),)), "tenant_keys": keys}
        engines = FussyEngine("decode", chunks=2), FussyEngine("prefill", role=wire.Role.PREFILL)
        return await self._stack.enter_async_context(bench(self._folder, *engines, **changes))

    def make(self, rng: random.Random) -> bytes:
        if rng.random() < 0.25:
            return mutated(rng, rng.choice(self._seeds), self._seeds, _TOKENS)
        body = json_bytes(rng, spoiled(rng, rng.choice(_BODIES), _NAMES))
        request = _request(rng, body, key=KEY if self.tenants and rng.random() < 0.8 else None)
        if rng.random() < 0.3:
            request = mutated(rng, request, self._seeds, _TOKENS)
        return request * 2 if rng.random() < 0.05 else request

    def check(self, data: bytes) -> None:
        self._count += 1
        self._loop.run_until_complete(self._check(data))

    async def _check(self, data: bytes) -> None:
        async with asyncio.timeout(LONGEST_EXCHANGE):
            by_tcp = zlib.crc32(data) % TCP_EVERY == 0
            said = await (self._over_tcp(data) if by_tcp else self._in_memory(data))
        for status in map(int, _STATUS.findall(said)):
            if status >= 500 and status not in ALLOWED_5XX:
                raise Found(f"answered {status}")
        self._look_for_defects()
        if not by_tcp and not self._bench.is_idle():
            raise Found("the request is over and still counted")
        if self._count % GOOD_EVERY == 0:
            await self._serve_a_good_one()

    def _look_for_defects(self) -> None:
        if self._defects.found:
            found, self._defects.found = self._defects.found[0], []
            raise Found(found[:200])

    @property
    def _server(self) -> Server:
        server = self._bench.router._server
        assert server is not None
        return server

    async def _in_memory(self, data: bytes) -> bytes:
        connection = Connection(self._server)
        transport = MemoryTransport(self._loop, connection)
        connection.connection_made(transport)
        cut = zlib.crc32(data) % (len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            # What is pipelined waits in the kernel until the requests before it are answered.
            while not (transport.is_reading() or transport.closing):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
            if piece and not transport.closing:
                connection.data_received(piece)
        while connection.task is not None:
            await asyncio.wait({connection.task})
            await asyncio.sleep(0)
        connection.eof_received()
        await transport.lost.wait()
        return bytes(transport.out)

    async def _over_tcp(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            writer.write(data)
            writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    async def _serve_a_good_one(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}"} if self.tenants else {}
        body = {"model": MODEL, "prompt": "hello", "max_tokens": 5}
        served = await self._bench.client.post("/v1/completions", json=body, headers=headers)
        if served.status_code != 200:
            raise Found(f"a good request is answered {served.status_code} after what came before it")

    def finish(self) -> None:
        try:
            self._loop.run_until_complete(self._serve_a_good_one())
            self._look_for_defects()
        finally:
            self._loop.run_until_complete(self._stack.aclose())
            self._loop.close()
            logging.getLogger("paceline_worker").removeHandler(self._defects)
            shutil.rmtree(self._folder, ignore_errors=True)


class TenantsDoor(FrontDoor):
    """A router that asks for keys."""

    name = "front-door-tenants"
    share = 4
    tenants = True


TARGETS: Final = (FrontDoor, TenantsDoor)


def _request(rng: random.Random, body: bytes, *, plain: bool = False, key: str | None = None) -> bytes:
    method, path = "POST", rng.choice(_PATHS[:7])
    lines = [b"Host: a"]
    if not plain:
        if rng.random() < 0.1:
            method = rng.choice(("GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "BREW", "get"))
        if rng.random() < 0.2:
            path = rng.choice(_PATHS)
        lines += rng.choices(_HEADERS, k=rng.choice((0, 0, 0, 1, 1, 2, 3)))
    if key is not None:
        lines.append(b"Authorization: Bearer " + key.encode())
    if not plain and rng.random() < 0.3:
        lines.append(b"Transfer-Encoding: chunked")
        body = _chunked(rng, body)
    else:
        lines.append(b"Content-Length: %d" % max(0, len(body) + (rng.choice((-1, 1)) if rng.random() < 0.05 else 0)))
    head = f"{method} {path} HTTP/1.1".encode("latin-1")
    return b"\r\n".join((head, *lines)) + b"\r\n\r\n" + body


def _chunked(rng: random.Random, body: bytes) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = rng.choice((1, 7, 100, 5000))
        piece = body[at : at + size]
        at += size
        extension = rng.choice((b"", b"", b"", b";a=b", b" ", b";\0", b'; q="\r\n"'))
        pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
    return b"".join(pieces) + rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"00\n\r\n"))
