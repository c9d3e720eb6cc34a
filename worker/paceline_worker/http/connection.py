"""One client connection of the server: framing, limits, deadlines, pipelining and back-pressure.

Parsing is httptools' (llhttp in its strict mode), which refuses obs-fold, bare LF, duplicate Content-Length, and
Content-Length beside Transfer-Encoding. What it lets through and a proxy must not is refused here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, cast

import httptools

from paceline_worker.http.framing import head_problem, refusal, split_target
from paceline_worker.http.headers import JSON, error_body
from paceline_worker.http.message import Request, Response

if TYPE_CHECKING:
    from paceline_worker.http.server import Server

log = logging.getLogger(__name__)

MAX_PIPELINED: Final = 64
"""Requests that wait behind the running one. Reading pauses at the first; one read may still bring several."""
LINGER_SECONDS: Final = 2.0
"""How long a refused client may go on sending, so that it reads the answer rather than a reset."""
CHUNK_OVERHEAD: Final = 16
"""Bytes of chunk framing per byte of body that are believed to be honest; a one-byte chunk takes six."""


class Phase(Enum):
    """What the connection waits for."""

    IDLE = 1
    HEADERS = 2
    BODY = 3
    CLOSING = 4


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket. Not for use outside this package."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = inf
        """Loop time at which :meth:`expire` is to be called."""
        self.task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._phase = Phase.IDLE
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._raw_bytes = 0
        self._incoming: Request | None = None
        self._waiting: deque[Request] = deque()
        self._refusal: tuple[int, str] | None = None
        self._owes_continue = False
        self._request: Request | None = None
        self._response: Response | None = None
        self._drained: asyncio.Future[None] | None = None
        self._write_paused = False
        self._peer = ""

    # --- what the server asks

    @property
    def busy(self) -> bool:
        """Whether a handler is running."""
        return self.task is not None

    def close_if_idle(self) -> None:
        """Close now unless a request is being read or answered; those that are end with ``Connection: close``."""
        if self.task is None and self._phase is Phase.IDLE:
            self._close()

    def abort(self) -> None:
        """Drop the connection and cancel its handler."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._write_paused or self._phase is Phase.CLOSING:
            self.abort()
        elif self._phase is Phase.IDLE:
            self._close()
        else:
            what = "headers" if self._phase is Phase.HEADERS else "body"
            self._refuse(408, f"The request's {what} did not arrive in time.")

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one only in behaviour
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if peer else ""
        self.deadline = self.server.loop.time() + self.server.limits.idle_timeout_seconds
        if not self.server.opened(self):
            self.server.on_refusal(503)
            self._transport.write(refusal(503, "Too many connections; try again later."))
            self._transport.close()
            self._phase = Phase.CLOSING
        elif self.server.closing:
            self._close()

    def connection_lost(self, _: Exception | None) -> None:
        """The socket is closed, by either side."""
        self._transport = None
        self._phase = Phase.CLOSING
        self._waiting.clear()
        self.server.lost(self)
        self._client_gone()

    def eof_received(self) -> bool:
        """The client sends no more: it is gone as far as we are concerned."""
        self._close()
        self._client_gone()
        return False

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then act on what it found wrong."""
        if self._phase is Phase.CLOSING or self._refusal is not None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked, and closed then: what follows could be any protocol
        except httptools.HttpParserError as error:
            self._found_wrong(400, f"The request is not valid HTTP/1.1: {error.args[0]}.")
        if self._phase is Phase.HEADERS:
            self._raw_bytes += len(data)
            if self._raw_bytes > self.server.limits.max_header_bytes:
                self._found_wrong(431, self._too_large_head())
        elif self._phase is Phase.BODY:
            self._raw_bytes += len(data)
            if self._raw_bytes > self.server.limits.max_header_bytes + CHUNK_OVERHEAD * self._body_bytes + len(data):
                self._found_wrong(400, "The chunked body is nearly all framing.")
        if self._refusal is not None and self.task is None:
            self._refuse(*self._refusal)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._write_paused = True
        self.deadline = self.server.loop.time() + self.server.limits.write_timeout_seconds
        if self._response is not None:
            self._response.paused()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._write_paused = False
        self._set_deadline()
        self._release_drain()
        if self._response is not None:
            self._response.resumed()

    # --- message.Wire

    @property
    def writable(self) -> bool:
        """See :class:`~paceline_worker.http.message.Wire`."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def keeps_alive(self) -> bool:
        """See :class:`~paceline_worker.http.message.Wire`."""
        return self._request is not None and self._request.keep_alive and not self.server.closing

    def put(self, data: bytes) -> None:
        """See :class:`~paceline_worker.http.message.Wire`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """See :class:`~paceline_worker.http.message.Wire`."""
        if self._write_paused and self.writable:
            if self._drained is None:
                self._drained = self.server.loop.create_future()
            await asyncio.shield(self._drained)

    # --- httptools

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._phase = Phase.HEADERS
        self._url = b""
        self._headers = []
        self._head_bytes = self._raw_bytes = 0
        self._body = []
        self._body_bytes = 0
        self._incoming = None
        self._set_deadline()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which counts against the same limits and is dropped."""
        self._count_head(len(name) + len(value) + 4)
        if self._phase is Phase.HEADERS:
            self._headers.append((name.lower(), value.strip(b" \t") if value[-1:] in b" \t" else value))
            if len(self._headers) > self.server.limits.max_headers:
                self._found_wrong(431, f"More than {self.server.limits.max_headers} headers.")

    def on_headers_complete(self) -> None:
        """The head is whole: check what the parser does not."""
        if self._refusal is not None:
            return
        self._phase = Phase.BODY
        self._raw_bytes = 0
        version = self._parser.get_http_version()
        path, query = split_target(self._url)
        self._incoming = request = Request(
            self._parser.get_method().decode("ascii"),
            path,
            query,
            self._headers,
            peer=self._peer,
            http11=version == "1.1",
            keep_alive=version == "1.1" and self._parser.should_keep_alive() and not self._parser.should_upgrade(),
        )
        problem = head_problem(request, version, self.server.limits.max_body_bytes)
        if problem is not None:
            self._found_wrong(*problem)
            return
        self._set_deadline()
        if request.http11 and request.header(b"expect") is not None:
            if self.task is None:
                self.put(b"HTTP/1.1 100 Continue\r\n\r\n")
            else:
                self._owes_continue = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._refusal is not None:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self.server.limits.max_body_bytes:
            self._found_wrong(413, f"The body is over the limit of {self.server.limits.max_body_bytes} bytes.")
            return
        self._body.append(data)

    def on_message_complete(self) -> None:
        """A whole request: run it, or queue it behind the running one."""
        request = self._incoming
        if request is None or self._refusal is not None:
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._headers = []
        self._incoming = None
        self._phase = Phase.IDLE
        self._owes_continue = False
        if self.task is None:
            self._start(request)
        elif len(self._waiting) < MAX_PIPELINED:
            self._waiting.append(request)
            self._pause_reading()
        else:
            self._found_wrong(400, f"More than {MAX_PIPELINED} requests were sent without awaiting an answer.")

    # --- one request

    def _start(self, request: Request) -> None:
        self._request = request
        self._response = response = Response(self, request)
        self.deadline = inf
        # A callback, not code at the end of the task: a task that is cancelled before its first step runs none.
        self.task = self.server.spawn(self._run(request, response), self._finish)

    async def _run(self, request: Request, response: Response) -> None:
        try:
            await self.server.handler(request, response)
        except Exception:  # the root of a task: a bug in a handler costs its own request only
            log.exception("the handler of %s %s failed", request.method, request.path)

    def _finish(self, _: asyncio.Task[None]) -> None:
        self.task = None
        response = self._response
        if response is not None and self.writable:
            if not response.started:
                response.send(500, error_body(500, "Internal error.", kind="internal_server_error"), (JSON,))
            elif not response.ended:
                self.abort()  # a missing last chunk is how the client learns that the answer is cut
        keeps_alive = self.keeps_alive
        self._request = self._response = None
        if not self.writable:
            return
        if not keeps_alive:
            self._close()
        elif self._waiting:
            self._start(self._waiting.popleft())
        elif self._refusal is not None:
            self._refuse(*self._refusal)
        else:
            if self._owes_continue:
                self._owes_continue = False
                self.put(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._set_deadline()
            self._resume_reading()

    def _client_gone(self) -> None:
        self._release_drain()
        if self.task is not None:
            self.task.cancel()

    # --- limits and the end

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.server.limits.max_header_bytes:
            self._found_wrong(431, self._too_large_head())

    def _too_large_head(self) -> str:
        return f"The request line and headers are over the limit of {self.server.limits.max_header_bytes} bytes."

    def _found_wrong(self, status: int, message: str) -> None:
        """Remember the first thing found wrong; it is answered when the requests before it have been."""
        if self._refusal is None:
            self._refusal = (status, message)

    def _refuse(self, status: int, message: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.server.on_refusal(status)
        self._transport.write(refusal(status, message))
        self._phase = Phase.CLOSING
        self._body = []
        self.deadline = self.server.loop.time() + LINGER_SECONDS
        self._resume_reading()
        if self._transport.can_write_eof():  # TLS has no half-closed connections
            self._transport.write_eof()

    def _close(self) -> None:
        self._phase = Phase.CLOSING
        if self._transport is not None:
            self.deadline = self.server.loop.time() + self.server.limits.write_timeout_seconds
            self._transport.close()

    def _set_deadline(self) -> None:
        limits = self.server.limits
        if self._phase is Phase.CLOSING:
            return
        if self.task is not None:
            self.deadline = inf
        elif self._phase is Phase.IDLE:
            self.deadline = self.server.loop.time() + limits.idle_timeout_seconds
        elif self._phase is Phase.HEADERS:
            self.deadline = self.server.loop.time() + limits.header_timeout_seconds
        else:
            self.deadline = self.server.loop.time() + limits.body_timeout_seconds
        if self._write_paused:
            self.deadline = self.server.loop.time() + limits.write_timeout_seconds

    def _release_drain(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def _pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()
