"""An HTTP/1.1 server on a raw ``asyncio.Protocol``: strict about framing, bounded in everything, cheap per request.

The router and the emulator call :func:`serve` with a handler. The handler runs as one task a request and is cancelled
when the client goes away; requests that a client pipelines are handled one after another. A client that closes its
sending side counts as gone: a stream nobody reads must not hold an engine.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from paceline_worker.http.connection import Connection
from paceline_worker.http.message import Request, Response

__all__ = ["Handler", "Limits", "Request", "Response", "Server", "serve"]

log = logging.getLogger(__name__)

Handler = Callable[[Request, Response], Awaitable[None]]

BACKLOG: Final = 1024
_SWEEPS_PER_TIMEOUT: Final = 4
"""A timeout fires at most a quarter late: one sweep over all connections is far cheaper than a timer for each."""
_LONGEST_SWEEP_SECONDS: Final = 1.0
_SHORTEST_SWEEP_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. A request past a limit gets the status in brackets and its connection is closed."""

    max_body_bytes: int = 32 * 1024 * 1024
    """[413]"""
    max_header_bytes: int = 64 * 1024
    """Request line and headers together. [431]"""
    max_headers: int = 128
    """[431]"""
    header_timeout_seconds: float = 15.0
    """From the first byte of a request to the end of its headers. [408]"""
    body_timeout_seconds: float = 60.0
    """From the end of the headers to the end of the body. [408]"""
    idle_timeout_seconds: float = 75.0
    """Between requests; the connection is closed without a word."""
    write_timeout_seconds: float = 60.0
    """How long a client may leave a full buffer unread before the connection is dropped."""
    max_connections: int = 16_384
    """Connections past it are answered 503 and closed."""

    def sweep_seconds(self) -> float:
        """Pause between two looks for connections past their deadline."""
        shortest = min(
            self.header_timeout_seconds,
            self.body_timeout_seconds,
            self.idle_timeout_seconds,
            self.write_timeout_seconds,
        )
        return min(max(shortest / _SWEEPS_PER_TIMEOUT, _SHORTEST_SWEEP_SECONDS), _LONGEST_SWEEP_SECONDS)


class Server:
    """A listening server. Made by :func:`serve`."""

    def __init__(
        self, handler: Handler, limits: Limits, loop: asyncio.AbstractEventLoop, on_refusal: Callable[[int], None]
    ) -> None:
        self.handler = handler
        self.on_refusal = on_refusal
        self.limits = limits
        self.loop = loop
        self.closing = False
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._listeners: list[asyncio.Server] = []
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the kernel's choice if 0 was asked for. Stays known after :meth:`close`."""
        return self._port

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def active_requests(self) -> int:
        """Requests whose handler is running."""
        return len(self._tasks)

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Bind and start. Raises OSError when the address can't be bound."""
        listener = await self.loop.create_server(
            lambda: Connection(self),
            host,
            port,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=self._handshake_seconds(tls),
        )
        self._listeners = [listener]
        self._port = int(listener.sockets[0].getsockname()[1])
        self._schedule_sweep()

    async def use(self, tls: ssl.SSLContext) -> None:
        """Accept with other certificates from now on. Connections that are there stay as they are."""
        before = self._listeners
        # The same sockets, so that nobody finds the port closed; both listeners accept for a moment.
        sockets = [socket.fromfd(one.fileno(), one.family, one.type) for listener in before for one in listener.sockets]
        self._listeners = [
            await self.loop.create_server(
                lambda: Connection(self),
                sock=one,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=self._handshake_seconds(tls),
            )
            for one in sockets
        ]
        for listener in before:
            listener.close()

    def _handshake_seconds(self, tls: ssl.SSLContext | None) -> float | None:
        return None if tls is None else self.limits.header_timeout_seconds

    def opened(self, connection: Connection) -> bool:
        """A connection reports itself. False: there are too many, refuse it."""
        if len(self._connections) >= self.limits.max_connections:
            return False
        self._connections.add(connection)
        self._emptied.clear()
        return True

    def spawn(self, run: Coroutine[None, None, None], done: Callable[[asyncio.Task[None]], None]) -> asyncio.Task[None]:
        """Run a handler as a task that :meth:`close` knows of."""
        task = self.loop.create_task(run)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(done)
        return task

    def lost(self, connection: Connection) -> None:
        """A connection reports that it is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def _schedule_sweep(self) -> None:
        self._sweep_timer = self.loop.call_later(self.limits.sweep_seconds(), self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        self._schedule_sweep()

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Stop listening, let running requests finish for ``grace_seconds``, then drop what is left."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        try:
            async with asyncio.timeout(grace_seconds if grace_seconds > 0 else None):
                if grace_seconds > 0:
                    await self._emptied.wait()
        except TimeoutError:
            log.warning("%d requests did not finish within %g s and are dropped", len(self._tasks), grace_seconds)
        for connection in tuple(self._connections):
            connection.abort()
        await self._emptied.wait()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def serve(
    handler: Handler,
    host: str,
    port: int,
    *,
    limits: Limits,
    on_refusal: Callable[[int], None] = lambda _: None,
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Start a server on ``host:port`` (0: any free port), over HTTPS with ``tls``. Raises OSError when the address
    can't be bound.

    ``on_refusal`` is called with the status of every request that is answered without asking the handler.
    """
    server = Server(handler, limits, asyncio.get_running_loop(), on_refusal)
    await server.listen(host, port, tls)
    return server
