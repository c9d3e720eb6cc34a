"""What a handler sees of one exchange: the request it was given and the response it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

from paceline_worker.http.headers import Headers, find, render

_STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_NO_BODY: Final = frozenset({204, 304})


class Wire(Protocol):
    """The side of a connection that a response writes to."""

    @property
    def writable(self) -> bool:
        """False once the client is gone."""
        ...

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may serve another request after this one."""
        ...

    def put(self, data: bytes) -> None:
        """Hand bytes to the transport."""
        ...

    async def drained(self) -> None:
        """Return when the transport's buffer is low, or the client is gone."""
        ...


class Request:
    """One whole request: the handler starts when the last byte of the body is there."""

    __slots__ = ("body", "headers", "http11", "keep_alive", "method", "path", "peer", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[bytes, bytes]],
        *,
        peer: str,
        http11: bool = True,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        """Without the query, not percent-decoded."""
        self.query = query
        self.headers = headers
        """Names are lower-case."""
        self.body = b""
        self.peer = peer
        self.http11 = http11
        self.keep_alive = keep_alive

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; ``name`` in lower case."""
        return find(self.headers, name)


class Response:
    """The answer to one request.

    Once the client is gone every method does nothing; the handler is being cancelled then.
    """

    __slots__ = ("_bodyless", "_chunked", "_head", "_on_pause", "_on_resume", "_wire", "ended", "status")

    def __init__(self, wire: Wire, request: Request) -> None:
        self._wire = wire
        self._bodyless = request.method == "HEAD"
        self._chunked = request.http11
        self._head = b""
        self._on_pause: Callable[[], None] | None = None
        self._on_resume: Callable[[], None] | None = None
        self.status = 0
        """0 until :meth:`send` or :meth:`start`."""
        self.ended = False

    @property
    def started(self) -> bool:
        """Whether a status was given; no other can be sent then."""
        return self.status != 0

    def on_backpressure(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Have ``pause`` called when the client reads too slowly, ``resume`` when its buffer is low again."""
        self._on_pause, self._on_resume = pause, resume

    def send(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """A whole answer with its Content-Length."""
        self._set_status(status)
        self.ended = True
        if not self._wire.writable:
            return
        parts = [_status_line(status), render(headers)]
        if status not in _NO_BODY:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(self._connection_line())
        if not self._bodyless and status not in _NO_BODY:
            parts.append(body)
        self._wire.put(b"".join(parts))

    def start(self, status: int, headers: Headers = ()) -> None:
        """Begin a streamed answer: chunked, or up to the end of the connection for HTTP/1.0."""
        self._set_status(status)
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._head = b"".join((_status_line(status), render(headers), framing, self._connection_line()))
        # A first chunk that follows at once goes out with the head, in one segment; a head alone doesn't wait for it.
        asyncio.get_running_loop().call_soon(self._flush_head)

    def write(self, data: bytes) -> None:
        """One chunk. Callers that produce faster than a client reads call :meth:`drain` too."""
        if not data or self._bodyless or self.ended:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if self._head:
            framed, self._head = self._head + framed, b""
        self._wire.put(framed)

    async def drain(self) -> None:
        """Back-pressure: return when the transport's buffer is low again."""
        self._flush_head()
        await self._wire.drained()

    def end(self) -> None:
        """Finish a streamed answer."""
        if self.ended:
            return
        if not self.started:
            raise RuntimeError("a response ends before it was started")
        self.ended = True
        last = b"0\r\n\r\n" if self._chunked and not self._bodyless else b""
        if self._head or last:
            self._wire.put(self._head + last)
            self._head = b""

    def paused(self) -> None:
        """The connection says that its buffer is full."""
        if self._on_pause is not None:
            self._on_pause()

    def resumed(self) -> None:
        """The connection says that its buffer is low again."""
        if self._on_resume is not None:
            self._on_resume()

    def _set_status(self, status: int) -> None:
        if self.started:
            raise RuntimeError(f"a response with status {self.status} was started already")
        self.status = status

    def _connection_line(self) -> bytes:
        return b"\r\n" if self._wire.keeps_alive else b"connection: close\r\n\r\n"

    def _flush_head(self) -> None:
        if self._head:
            self._wire.put(self._head)
            self._head = b""


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
