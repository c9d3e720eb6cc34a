"""A server under test, and a client that sends bytes as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paceline_worker.http.server import Handler, Limits, Request, Response, Server, serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(request: Request, response: Response) -> None:
    response.send(200, request.body or request.path.encode())


@asynccontextmanager
async def running(handler: Handler = echo, **limits: float) -> AsyncIterator[Server]:
    server = await serve(handler, "127.0.0.1", 0, limits=Limits(**limits))  # type: ignore[arg-type]
    try:
        yield server
    finally:
        await server.close()
    assert server.connections == 0
    assert server.active_requests == 0


class Client:
    """A socket that sends what it is told, however wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(60):
            return await self.reader.read()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readuntil(end)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of one answer with a Content-Length."""
        head = await self.until(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        async with asyncio.timeout(60):
            return int(head.split()[1]), await self.reader.readexactly(length)


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def exchange(server: Server, data: bytes) -> bytes:
    async with client(server) as one:
        one.send(data)
        return await one.rest()
