"""One connection to an upstream and one exchange on it. The pool in :mod:`paceline_worker.http.client` owns them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

import httptools

from paceline_worker.http.errors import UpstreamClosed, UpstreamError, UpstreamGarbage, UpstreamTimeout
from paceline_worker.http.headers import find

if TYPE_CHECKING:
    from paceline_worker.http.client import Pool

Address = tuple[str, int]
"""Host and port."""

UNREAD_BYTES: Final = 256 * 1024
"""Body that is taken in before anybody asks for it; reading pauses above."""


class Exchange:
    """One request on its way and its answer."""

    __slots__ = ("_connection", "_failure", "_sink", "_waiter", "begun", "complete", "headers", "pieces", "status")

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self.pieces: list[bytes] = []
        """Of the body, arrived and not yet passed on."""
        self._sink: Callable[[bytes], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamError | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = False
        """Whether a byte of the body has arrived."""
        self.complete = False
        """Whether the whole answer has arrived."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header of the answer; ``name`` in lower case."""
        return find(self.headers, name)

    async def head(self) -> None:
        """Return once status and headers are there. Raises an UpstreamError."""
        while self.status == 0 and self._failure is None:
            await self._wait()
        if self.status == 0 and self._failure is not None:
            raise self._failure

    async def ready(self) -> None:
        """Return once a byte of the body is there, which stays for who takes it, or the answer is whole without one.

        Raises an UpstreamError.
        """
        while not (self.begun or self.complete) and self._failure is None:
            await self._wait()
        if self._failure is not None and not self.begun:
            raise self._failure

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UpstreamGarbage when it is longer than ``max_bytes``."""
        pieces: list[bytes] = []
        size = 0

        def take(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            if size > max_bytes:
                self.reject(UpstreamGarbage(f"the answer is over {max_bytes} bytes"))
            else:
                pieces.append(piece)

        await self.relay(take)
        if size > max_bytes:
            raise UpstreamGarbage(f"the answer is over {max_bytes} bytes")
        return b"".join(pieces)

    async def relay(self, sink: Callable[[bytes], None]) -> None:
        """Hand every piece of the body to ``sink`` as it comes; return at the end. Raises an UpstreamError.

        One call a read from the socket, however the upstream framed it.
        """
        self._sink = sink
        self._connection.resume()
        if self.pieces:
            self.deliver()
        while not self.complete and self._failure is None:
            await self._wait()
        if self._failure is not None:
            raise self._failure

    def pause(self) -> None:
        """Stop reading: whoever takes the pieces can't take more. The idle timeout rests meanwhile."""
        if not self.complete:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if not self.complete:
            self._connection.resume()

    def reject(self, error: UpstreamError) -> None:
        """The answer can't be used: whoever waits for it gets ``error``, and the connection is dropped."""
        self._connection.fail(error)

    def close(self) -> None:
        """Give the connection back if the answer is complete, else cut it, so that the upstream stops working."""
        self._sink = None
        self._connection.finish(self)

    # --- what the connection reports

    def deliver(self) -> None:
        """End of one read from the socket: pass on what came."""
        pieces = self.pieces
        if self._sink is not None:
            self.pieces = []
            self._sink(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            return
        self.wake()
        if sum(map(len, pieces)) > UNREAD_BYTES:
            self._connection.pause()

    def fail(self, error: UpstreamError) -> None:
        """The exchange can't go on."""
        if self._failure is None and not self.complete:
            self._failure = error
            self.wake()

    def wake(self) -> None:
        """Something that :meth:`head` or :meth:`relay` waits for has happened."""
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    async def _wait(self) -> None:
        self._waiter = self._connection.pool.loop.create_future()
        await self._waiter


class UpstreamConnection(asyncio.Protocol):
    """The protocol of one socket to an upstream."""

    def __init__(self, pool: Pool, address: Address) -> None:
        self.pool = pool
        self.address = address
        self.deadline = inf
        """Loop time at which :meth:`expire` is to be called."""
        self.heard = 0.0
        """Loop time of the last byte, or of the request that waits for the first."""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._until_eof = False
        self._keep_alive = True
        self._used = 0
        self._any_byte = False
        self._paused = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, payload: bytes) -> Exchange:
        """Send a request. The connection must be usable and without an exchange."""
        exchange = self._exchange = Exchange(self)
        self._until_eof = False
        self._keep_alive = True
        self._any_byte = False
        self._head_bytes = 0
        self._used += 1
        self.heard = self.pool.loop.time()
        self.deadline = self.heard + self.pool.limits.first_byte_seconds
        if self._transport is None:
            self.fail(self._closed())
        else:
            self._transport.write(payload)
        return exchange

    def finish(self, exchange: Exchange) -> None:
        """The exchange is no longer needed."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.resume()
        if exchange.complete and self._keep_alive and self.usable:
            self.deadline = self.pool.loop.time() + self.pool.limits.keep_alive_seconds
            self.pool.keep(self)
        else:
            self.abort()

    def fail(self, error: UpstreamError) -> None:
        """End the exchange with an error and drop the connection."""
        if self._exchange is not None:
            self._exchange.fail(error)
        self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        self._keep_alive = False
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        host, port = self.address
        if exchange.status == 0:
            waited = f"no answer within {self.pool.limits.first_byte_seconds:g} s"
        else:
            waited = f"nothing more of the answer within {self.pool.limits.idle_seconds:g} s"
        self.fail(UpstreamTimeout(f"{host}:{port}: {waited}"))

    def silence(self, now: float) -> float | None:
        """Seconds for which an exchange has waited for the upstream; None when none does."""
        exchange = self._exchange
        return None if exchange is None or exchange.complete or self._paused else now - self.heard

    @property
    def begun(self) -> bool:
        """Whether an answer is on its way."""
        return self._exchange is not None and self._exchange.begun

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and self.usable and self._transport is not None:
            self._paused = True
            self.deadline = inf
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if self.usable and self._transport is not None:
                self.heard = self.pool.loop.time()
                self.deadline = self.heard + self.pool.limits.idle_seconds
                self._transport.resume_reading()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The upstream accepted."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one only in behaviour
        self.pool.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        """The socket is closed, by either side."""
        self._transport = None
        exchange = self._exchange
        if exchange is not None and not exchange.complete:
            if self._until_eof and exchange.status:
                self._completed()
            else:
                exchange.fail(self._closed())
        self.pool.lost(self)

    def eof_received(self) -> bool:
        """The upstream sends no more."""
        return False

    def data_received(self, data: bytes) -> None:
        """A read from the socket."""
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody asked
            return
        self._any_byte = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not exchange.complete:
                self.fail(UpstreamGarbage(f"{self.address[0]}:{self.address[1]} does not answer in HTTP: {error}"))
                return
            self._keep_alive = False
        if exchange.status == 0:
            self._head_bytes += len(data)
            if self._head_bytes > self.pool.limits.max_header_bytes:
                self.fail(UpstreamGarbage(f"the head of the answer is over {self.pool.limits.max_header_bytes} bytes"))
        elif not self._paused:
            self.heard = self.pool.loop.time()
            self.deadline = self.heard + self.pool.limits.idle_seconds
        if exchange.pieces:
            exchange.deliver()
        if exchange.complete:
            exchange.wake()

    # --- httptools

    def on_message_begin(self) -> None:
        """An answer's first byte; a second answer to one request is a reason not to trust the connection."""
        self._headers = []
        if self._exchange is None or self._exchange.complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._headers.append((name.lower(), value.strip(b" \t") if value[-1:] in b" \t" else value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        exchange = self._exchange
        status = self._parser.get_status_code()
        if exchange is None or exchange.complete or 100 <= status < 200:  # interim answers are skipped
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._until_eof = not self._keep_alive and (
            find(self._headers, b"content-length") is None and find(self._headers, b"transfer-encoding") is None
        )
        exchange.headers = self._headers
        exchange.status = status
        exchange.wake()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        exchange = self._exchange
        if exchange is not None and not exchange.complete:
            exchange.begun = True
            exchange.pieces.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._exchange is not None and self._exchange.status:
            self._exchange.complete = True
            self.deadline = inf

    def _completed(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.complete = True
            if exchange.pieces:
                exchange.deliver()
            exchange.wake()

    def _closed(self) -> UpstreamClosed:
        host, port = self.address
        exchange = self._exchange
        started = exchange is not None and exchange.status != 0
        message = "in the middle of its answer" if started else "without an answer"
        return UpstreamClosed(
            f"{host}:{port} closed the connection {message}", stale=self._used > 1 and not self._any_byte
        )
