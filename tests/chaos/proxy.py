"""A network that misbehaves: a TCP proxy on loopback that delays, loses, swallows, cuts and garbles what goes through.

What is lost on a TCP connection comes late, not never: a lost segment is a stall of one retransmission time.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass

PIECE_BYTES = 64 * 1024
RETRANSMISSION_SECONDS = 0.2
"""Linux's least retransmission timeout."""
JUNK = b"\x00\xff}{ this is no event"
_CHUNK = re.compile(rb"\A([0-9a-fA-F]+\r\n)(data: \{[^\n]*\n\n)\r\n")
"""An event that is an HTTP chunk of its own."""


@dataclass(slots=True)
class Trouble:
    """What is wrong with the network now. Seconds are one way."""

    delay_seconds: float = 0.0
    loss: float = 0.0
    """Share of the segments that are lost once."""
    swallow: bool = False
    """Connections are accepted and stay open, and nothing comes through."""
    cut_after_bytes: int | None = None
    """Of an answer: then its connection is closed."""
    garble_framing_after_bytes: int | None = None
    """Of an answer: then junk comes in place of it."""
    garble_event_after_bytes: int | None = None
    """Of an answer: then an event comes as junk of the same length, in a sound HTTP chunk."""


class FaultProxy:
    """Goes to ``targets`` in turn. One object for all its connections; ``trouble`` may be replaced at any time."""

    def __init__(self, *targets: int, seed: int = 0) -> None:
        self.targets = list(targets)
        self.trouble = Trouble()
        self.broken = 0
        """Answers that were cut or garbled."""
        self.port = 0
        self._turn = 0
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        try:
            port = self.targets[self._turn % len(self.targets)]
            theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        try:
            ways = [
                asyncio.ensure_future(self._pass(reader, ours, answer=False)),
                asyncio.ensure_future(self._pass(theirs, writer, answer=True)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            ours.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool) -> None:
        passed = 0
        while data := await reader.read(PIECE_BYTES):
            while self.trouble.swallow:  # noqa: ASYNC110 - cancelled when either side gives up
                await asyncio.sleep(0.05)
            now = self.trouble
            lost = now.loss and self._random.random() < now.loss
            if pause := now.delay_seconds + (RETRANSMISSION_SECONDS if lost else 0.0):
                await asyncio.sleep(pause)
            # Health checks and metrics pages are left alone: it is streams that are to break.
            if data.startswith(b"HTTP/1.1 "):
                passed = 0
            if answer and b"data: {" in data:
                data, ends = self._break(data, passed)
                if ends:
                    writer.write(data)
                    await writer.drain()
                    return
            passed += len(data)
            writer.write(data)
            await writer.drain()

    def _break(self, data: bytes, passed: int) -> tuple[bytes, bool]:
        """What is sent instead of a piece of a stream, and whether the connection ends with it."""
        now = self.trouble
        if now.cut_after_bytes is not None and passed + len(data) > now.cut_after_bytes:
            self.broken += 1
            return data[: max(0, now.cut_after_bytes - passed)], True
        if now.garble_framing_after_bytes is not None and passed > now.garble_framing_after_bytes:
            self.broken += 1
            return JUNK, False
        if now.garble_event_after_bytes is not None and passed > now.garble_event_after_bytes:
            return _CHUNK.sub(self._garbled, data, count=1), False
        return data, False

    def _garbled(self, found: re.Match[bytes]) -> bytes:
        self.broken += 1
        size = len(found[2])
        return b"%b%b\n\n\r\n" % (found[1], (b"data: " + JUNK * size)[: size - 2])
