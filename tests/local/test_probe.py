"""Questions to pods: every kind of answer, silence included, is an answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from paceline.local import probe
from paceline.local.kubelet import Readiness
from paceline.local.probe import PodClient

Serve = Callable[[bytes | None], Awaitable[int]]


@pytest.fixture
async def client() -> AsyncIterator[PodClient]:
    async with aiohttp.ClientSession() as session:
        yield PodClient(session)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[asyncio.Server] = []
    open_ends: list[asyncio.StreamWriter] = []

    async def start(answer: bytes | None) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_ends.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            if answer is not None:
                writer.write(answer)
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield start
    for server in servers:
        server.close()
    for writer in open_ends:
        writer.close()


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "readiness"),
    [
        (http(200, b"ok"), Readiness(True)),
        (http(503, b'{"state": "warming", "reason": "loading\\n weights"}'), Readiness(False, "loading weights")),
        (http(503, b'{"state": "draining"}'), Readiness(False, "draining")),
        (http(503, b"<html>"), Readiness(False, "answers 503")),
        (http(500, b"\xff"), Readiness(False, "answers 500")),
        (b"not http\r\n\r\n", Readiness(False, "does not answer (ClientResponseError)", answered=False)),
        (b"", Readiness(False, "does not answer (ServerDisconnectedError)", answered=False)),
    ],
)
async def test_readiness_is_read_from_whatever_comes(
    client: PodClient, serve: Serve, answer: bytes, readiness: Readiness
) -> None:
    port = await serve(answer)
    assert await client.ready(port) == readiness


async def test_a_pod_that_listens_on_nothing_is_starting(client: PodClient) -> None:
    assert await client.ready(1) == Readiness(False, answered=False)


async def test_silence_ends_after_a_while(client: PodClient, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    port = await serve(None)
    assert not (await client.ready(port)).answered
    assert await client.metrics(port) is None


async def test_metrics_are_text_or_nothing(client: PodClient, serve: Serve) -> None:
    assert await client.metrics(await serve(http(200, b"a 1\n"))) == "a 1\n"
    assert await client.metrics(await serve(http(404, b"no"))) is None
    assert await client.metrics(1) is None


async def test_a_page_without_an_end_is_cut(client: PodClient, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BODY_BYTES", 1000)
    assert await client.metrics(await serve(http(200, b"x" * 5000))) == "x" * 1000


@pytest.mark.parametrize(
    ("answer", "idle"),
    [
        (http(200, b'{"state": "ready", "inFlight": 0, "heldBlocks": false}'), True),
        (http(200, b'{"state": "ready", "inFlight": 2, "heldBlocks": false}'), False),
        (http(200, b'{"state": "ready", "inFlight": 0, "heldBlocks": true}'), False),
        (http(200, b'{"state": "ready", "inFlight": null}'), False),
        (http(503, b'{"inFlight": 0}'), False),
        (http(200, b"<html>"), False),
        (b"", False),
    ],
)
async def test_an_engine_is_idle_only_when_it_says_so(
    client: PodClient, serve: Serve, answer: bytes, idle: bool
) -> None:
    assert await client.idle(await serve(answer)) is idle
