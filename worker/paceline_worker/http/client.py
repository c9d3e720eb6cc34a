"""Connections to upstreams: kept alive, one exchange at a time each, with timeouts, flow control and abort.

The router calls :meth:`Pool.open` with the bytes of a whole request and either reads the answer or relays it, piece by
piece as it comes, to a callback: no task switch and no parse of the content for a piece.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from paceline_worker.http.errors import UpstreamClosed, UpstreamGarbage, UpstreamTimeout, UpstreamUnreachable
from paceline_worker.http.tls import Renewed
from paceline_worker.http.upstream import Address, Exchange, UpstreamConnection

__all__ = [
    "Address",
    "Exchange",
    "Pool",
    "PoolLimits",
    "UpstreamClosed",
    "UpstreamGarbage",
    "UpstreamTimeout",
    "UpstreamTls",
    "UpstreamUnreachable",
]

_SWEEPS_PER_TIMEOUT: Final = 4
_LONGEST_SWEEP_SECONDS: Final = 1.0
_SHORTEST_SWEEP_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Timeouts and bounds for all upstreams of a pool."""

    connect_seconds: float = 2.0
    first_byte_seconds: float = 600.0
    """From sending the request to the head of the answer."""
    idle_seconds: float = 120.0
    """Longest pause within an answer, while it is being read."""
    keep_alive_seconds: float = 4.0
    """How long an unused connection is kept. Below the 5 s after which vLLM's server closes its side."""
    max_idle_per_upstream: int = 256
    max_header_bytes: int = 64 * 1024

    def sweep_seconds(self) -> float:
        """Pause between two looks for connections past their deadline."""
        shortest = min(self.first_byte_seconds, self.idle_seconds, self.keep_alive_seconds)
        return min(max(shortest / _SWEEPS_PER_TIMEOUT, _SHORTEST_SWEEP_SECONDS), _LONGEST_SWEEP_SECONDS)


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How upstreams are asked over HTTPS."""

    contexts: Renewed
    server_name: str
    """In their certificates: addresses change, and are in none."""


class Pool:
    """Kept-alive connections per upstream. Make it within a running loop; :meth:`close` when done."""

    def __init__(self, limits: PoolLimits, tls: UpstreamTls | None = None) -> None:
        self.limits = limits
        self.secured: AbstractSet[Address] = frozenset()
        """Upstreams that are asked over HTTPS."""
        self._tls = tls
        self.loop = asyncio.get_running_loop()
        self._idle: dict[Address, deque[UpstreamConnection]] = {}
        self._open: set[UpstreamConnection] = set()
        self._closing = False
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._timer = self.loop.call_later(limits.sweep_seconds(), self._sweep)

    @property
    def certificates(self) -> Renewed | None:
        """What upstreams are asked with over HTTPS."""
        return None if self._tls is None else self._tls.contexts

    @property
    def connections(self) -> int:
        """Open connections, in use or idle."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Open connections that wait for a request."""
        return sum(len(kept) for kept in self._idle.values())

    async def open(self, address: Address, payload: bytes) -> Exchange:
        """Send one whole request and return once the head of the answer is there.

        The caller must :meth:`~Exchange.close` what it gets. Raises an ``UpstreamError``.
        """
        connection = self._take(address) or await self._connect(address)
        exchange = connection.begin(payload)
        begun = False
        try:
            await exchange.head()
            begun = True
        finally:
            if not begun:
                exchange.close()
        return exchange

    def forget(self, address: Address) -> None:
        """Close the idle connections to an upstream that is gone."""
        for connection in self._idle.pop(address, ()):
            connection.abort()

    def silence(self, address: Address) -> float | None:
        """Seconds since an upstream sent anything of the answers that it has begun; None when it has begun none.

        Answers that nobody takes in just now don't count.
        """
        now = self.loop.time()
        waits = [c.silence(now) for c in self._open if c.address == address and c.begun]
        return min((wait for wait in waits if wait is not None), default=None)

    def cut_silent(self, address: Address, seconds: float, why: str) -> int:
        """End the exchanges with an upstream that have waited for longer than ``seconds``. Returns how many."""
        now = self.loop.time()
        silent = [c for c in self._open if c.address == address and (c.silence(now) or 0.0) > seconds]
        for connection in silent:
            connection.fail(UpstreamTimeout(f"{address[0]}:{address[1]}: {why}"))
        return len(silent)

    async def close(self) -> None:
        """Close everything; exchanges that still run fail."""
        self._closing = True
        self._timer.cancel()
        for connection in tuple(self._open):
            connection.abort()
        await self._emptied.wait()

    def _take(self, address: Address) -> UpstreamConnection | None:
        kept = self._idle.get(address)
        while kept:
            connection = kept.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, address: Address) -> UpstreamConnection:
        host, port = address
        begun = UpstreamConnection(self, address)
        connected = False
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                await self.loop.create_connection(lambda: begun, host, port, **self._secure(address))
            connected = True
        except TimeoutError:
            raise UpstreamUnreachable(
                f"{host}:{port} did not accept a connection within {self.limits.connect_seconds:g} s"
            ) from None
        except ssl.SSLError as error:
            raise UpstreamUnreachable(f"{host}:{port}: no TLS: {error.reason or error}") from None
        except OSError as error:
            raise UpstreamUnreachable(f"{host}:{port} can't be reached: {error.strerror or error}") from None
        finally:
            if not connected:
                # Cancelled in the moment in which it succeeds, uvloop closes the socket without telling the protocol.
                self.lost(begun)
        return begun

    def _secure(self, address: Address) -> dict[str, Any]:
        if address not in self.secured:
            return {}
        if self._tls is None:
            raise UpstreamUnreachable(f"{address[0]}:{address[1]} speaks TLS, and this router has no authority for it")
        return {"ssl": self._tls.contexts.get(), "server_hostname": self._tls.server_name}

    # --- what connections report

    def opened(self, connection: UpstreamConnection) -> None:
        """A connection reports itself."""
        self._open.add(connection)
        self._emptied.clear()

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection reports that it is gone."""
        self._open.discard(connection)
        kept = self._idle.get(connection.address)
        if kept is not None and connection in kept:
            kept.remove(connection)
        if not self._open:
            self._emptied.set()

    def keep(self, connection: UpstreamConnection) -> None:
        """A connection reports that its exchange is over and that it may be used again."""
        kept = self._idle.setdefault(connection.address, deque())
        if self._closing or len(kept) >= self.limits.max_idle_per_upstream:
            connection.abort()
            return
        kept.append(connection)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [c for c in self._open if c.deadline < now]:
            connection.expire()
        for address in [address for address, kept in self._idle.items() if not kept]:
            del self._idle[address]
        self._timer = self.loop.call_later(self.limits.sweep_seconds(), self._sweep)
