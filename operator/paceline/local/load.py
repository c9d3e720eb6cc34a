"""The load client: replays trace requests against the router over HTTP, as streams, and times what comes back.

Open loop: a request is sent when the trace says, whether or not earlier ones have been answered, because that is
what users do. How late the client itself was is part of the result, so that a slow client is not blamed on the
server. All times are seconds of this machine's clock; the report turns them into the engines' time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import aiohttp
import msgspec

from paceline.clock import Clock
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import TraceRequest
from paceline.unreadable import UNREADABLE

MAX_IN_FLIGHT: Final = 1024
"""Requests in flight at most. One that has to wait for another to end is counted as an overrun."""
TAIL_BYTES: Final = 8_192
"""End of a stream that is kept for its last events: usage, an error, the end mark."""
ERROR_CHARACTERS: Final = 300
LAG_PERIOD_SECONDS: Final = 0.02
MAX_LAGS: Final = 200_000
"""Samples of the last hour."""
CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 300.0
"""Longest silence before a request counts as failed."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How the trace is replayed."""

    url: str
    """Of the router, without a path."""
    model: str
    speed: float = 1.0
    """Arrival times of the trace are divided by it."""
    max_in_flight: int = MAX_IN_FLIGHT
    idle_seconds: float = IDLE_SECONDS
    keys: tuple[str, ...] = ()
    """API keys, over which sessions are spread; empty: none is needed."""


@dataclass(slots=True)
class RequestResult:
    """One request: what was asked, and what came of it. Times in wall seconds; ``sent`` counts from the start of the
    load.
    """

    request: TraceRequest
    scheduled: float
    sent: float = 0.0
    status: int = 0
    """HTTP status; 0 if there was no answer."""
    ttft: float | None = None
    """From sending to the first token."""
    itl: float | None = None
    """Mean time between tokens; None with fewer than two."""
    longest_gap: float | None = None
    """Longest time between two arrivals of tokens."""
    ended: float = 0.0
    output_tokens: int = 0
    """As counted by the engine."""
    error: str | None = None
    """None if the whole answer came, with as many tokens as asked for."""

    @property
    def late(self) -> float:
        """How late the client sent it."""
        return self.sent - self.scheduled


@dataclass(slots=True)
class LoadResult:
    """All requests of a load, in the order of the trace, and how well the client kept up."""

    requests: list[RequestResult] = field(default_factory=list)
    overruns: int = 0
    """Requests that waited because too many were in flight."""
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LAGS))
    """How late the client's event loop woke up, sampled all the time: no measured time is finer than that."""
    seconds: float = 0.0
    """From the first to the last moment of the load."""


class LoadClient:
    """Replays requests once. ``result`` fills while :meth:`run` runs, for whoever watches."""

    def __init__(
        self, options: LoadOptions, *, session: aiohttp.ClientSession, prompts: PromptMaker, clock: Clock
    ) -> None:
        self.result = LoadResult()
        self._options = options
        self._session = session
        self._prompts = prompts
        self._clock = clock
        self._slots = asyncio.Semaphore(options.max_in_flight)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=options.idle_seconds)

    async def run(self, requests: Sequence[TraceRequest]) -> LoadResult:
        """Send all requests at their times and return when the last has ended. Cancelling abandons those in flight."""
        start = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                lag = group.create_task(self._watch_lag())
                async with asyncio.TaskGroup() as sending:
                    async for result in self._due(requests, start):
                        await self._slot()
                        sending.create_task(self._send(result, start))
                lag.cancel()
        finally:
            self.result.seconds = self._clock.monotonic() - start
        return self.result

    async def _due(self, requests: Sequence[TraceRequest], start: float) -> AsyncIterator[RequestResult]:
        for request in requests:
            scheduled = request.arrival_seconds / self._options.speed
            wait = start + scheduled - self._clock.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            result = RequestResult(request, scheduled)
            self.result.requests.append(result)
            yield result

    async def _slot(self) -> None:
        if self._slots.locked():
            self.result.overruns += 1
        await self._slots.acquire()

    async def _send(self, result: RequestResult, start: float) -> None:
        body = self._body(result.request)
        sent = self._clock.monotonic()
        result.sent = sent - start
        try:
            async with self._session.post(
                f"{self._options.url}/v1/completions",
                data=body,
                headers=self._headers(result.request),
                timeout=self._timeout,
            ) as answer:
                result.status = answer.status
                if answer.status == 200:
                    await self._follow(answer.content, result, sent)
                else:
                    result.error = f"{answer.status}: {_message(await answer.content.read(TAIL_BYTES))}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            result.error = _shorten(f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            result.error = "broken off with the load"
            raise
        finally:
            result.ended = self._clock.monotonic() - start
            self._slots.release()

    def _headers(self, request: TraceRequest) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if keys := self._options.keys:
            who = request.session or str(request.arrival_seconds)
            headers["authorization"] = f"Bearer {keys[crc32(who.encode()) % len(keys)]}"
        return headers

    def _body(self, request: TraceRequest) -> bytes:
        # The prompt is rendered already: only what is around it goes through the JSON encoder.
        head = msgspec.json.encode(
            {
                "model": self._options.model,
                "max_tokens": request.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        return b'%s,"prompt":%s}' % (head[:-1], self._prompts.token_ids_json(request))

    async def _follow(self, stream: aiohttp.StreamReader, result: RequestResult, sent: float) -> None:
        first = last = 0.0
        longest = 0.0
        tail = b""
        async for data in stream.iter_any():
            now = self._clock.monotonic()
            if b'"text"' in data:
                if first:
                    longest = max(longest, now - last)
                else:
                    first = now
                last = now
            tail = (tail + data)[-TAIL_BYTES:]
        end = read_tail(tail)
        result.output_tokens = end.usage.completion_tokens
        result.error = end.error or _shortfall(end, result.request)
        if first:
            result.ttft = first - sent
            result.longest_gap = longest
            if result.output_tokens > 1:
                result.itl = (last - first) / (result.output_tokens - 1)

    async def _watch_lag(self) -> None:
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            self.result.lags.append(max(0.0, self._clock.monotonic() - before - LAG_PERIOD_SECONDS))


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Error(msgspec.Struct):
    message: str


class _Event(msgspec.Struct):
    """What matters here of a chunk, or of an answer that is an error."""

    usage: _Usage | None = None
    error: _Error | None = None


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What the last events of a stream say."""

    done: bool = False
    """The end mark came."""
    usage: _Usage = field(default_factory=_Usage)
    error: str | None = None


def read_tail(tail: bytes) -> StreamEnd:
    """Read the end of a stream of server-sent events. Events that were cut off, or are garbage, are passed over."""
    done, error, usage = False, None, _Usage()
    for event in tail.split(b"\n\n"):
        payload = event.strip().removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            done = True
            continue
        try:
            document = msgspec.json.decode(payload, type=_Event)
        except UNREADABLE:
            continue
        error = _shorten(document.error.message) if document.error else error
        usage = document.usage or usage
    return StreamEnd(done, usage, error)


def _shortfall(end: StreamEnd, request: TraceRequest) -> str | None:
    """What is missing of an answer that carries no error; None if it is whole."""
    if not end.done:
        return "the stream ended before [DONE]"
    if end.usage.completion_tokens != request.output_tokens:
        return f"{end.usage.completion_tokens} tokens came, {request.output_tokens} were asked for"
    if end.usage.prompt_tokens != request.input_tokens:
        return f"the engine counted {end.usage.prompt_tokens} prompt tokens, {request.input_tokens} were sent"
    return None


def _message(body: bytes) -> str:
    """The message of an OpenAI-style error object, or the text itself."""
    try:
        document = msgspec.json.decode(body, type=_Event)
    except UNREADABLE:
        return _shorten(body.decode("utf-8", "replace"))
    return _shorten(document.error.message if document.error else "no error object")


def _shorten(text: str) -> str:
    return " ".join(text.split())[:ERROR_CHARACTERS]
