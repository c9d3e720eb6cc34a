"""The server refuses what a strict HTTP/1.1 server must, and bounds what a client can take."""

from __future__ import annotations

import asyncio
import socket

import pytest

from paceline_worker.http.server import Request, Response
from tests.worker.http.raw import GET, client, exchange, running

# --- framing that must be refused


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", id="two equal lengths"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            id="two different lengths",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", id="a list of lengths"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", id="a signed length"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="length and chunked",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            id="chunked and length",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            id="another coding first",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="an unknown coding"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            id="a coding twice",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="a coding in HTTP/1.0"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", id="a folded header"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare line feeds"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", id="one bare line feed"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", id="a bare carriage return"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", id="a space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", id="a zero byte"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            id="a hexadecimal prefix",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            id="an enormous chunk",
        ),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="something else"),
    ],
)
async def test_ambiguous_framing_is_refused_and_the_connection_closed(data: bytes) -> None:
    async with running() as server:
        answer = await exchange(server, data + GET)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer
    assert answer.count(b"\r\n\r\n") == 1, "nothing behind it is answered"
    assert b'"invalid_request_error"' in answer


async def test_an_unknown_expectation_is_refused() -> None:
    async with running() as server:
        assert b" 417 " in await exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n")


# --- limits


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent() -> None:
    async with running(max_body_bytes=10) as server:
        answer = await exchange(
            server, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"limit of 10 bytes" in answer


async def test_a_chunked_body_is_refused_where_it_passes_the_limit() -> None:
    async with running(max_body_bytes=10) as server:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await exchange(server, head + b"8\r\n12345678\r\n3\r\nabc\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    async with running(max_body_bytes=10) as server, client(server) as one:
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789")
        assert await one.answer() == (200, b"0123456789")


async def test_a_client_that_goes_on_sending_a_refused_body_still_reads_the_answer() -> None:
    async with running(max_body_bytes=10) as server, client(server) as one:
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
        for _ in range(40):
            one.send(b"x" * 100_000)
            await asyncio.sleep(0)
        assert (await one.rest()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000,
        b"GET /" + b"x" * 1000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20 + b"\r\n",
    ],
    ids=["long target", "long value", "unfinished value", "unfinished target", "many headers"],
)
async def test_an_oversized_head_is_refused_even_when_it_never_ends(head: bytes) -> None:
    async with running(max_header_bytes=500, max_headers=10) as server:
        assert (await exchange(server, head)).startswith(b"HTTP/1.1 431 ")


async def test_trailers_count_as_headers() -> None:
    async with running(max_header_bytes=500) as server:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        assert (await exchange(server, head + b"X: " + b"y" * 1000 + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_is_nearly_all_framing_is_refused() -> None:
    async with running(max_header_bytes=500) as server, client(server) as one:
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=")
        for _ in range(20):
            one.send(b"y" * 400)
            await asyncio.sleep(0.001)
        assert (await one.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"GET / HT", b"headers"), (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na", b"body")],
    ids=["headers", "body"],
)
async def test_a_client_that_sends_too_slowly_is_told_so(sent: bytes, said: bytes) -> None:
    async with running(header_timeout_seconds=0.05, body_timeout_seconds=0.05) as server:
        answer = await exchange(server, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert said in answer


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with running(idle_timeout_seconds=0.05) as server, client(server) as one:
        one.send(GET)
        assert await one.answer() == (200, b"/")
        assert await one.rest() == b""


async def test_connections_past_the_limit_are_refused() -> None:
    async with running(max_connections=1) as server, client(server) as first:
        first.send(GET)
        await first.answer()
        async with client(server) as second:
            assert (await second.rest()).startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_reads_too_slowly_is_dropped_and_its_handler_cancelled() -> None:
    cancelled = asyncio.Event()

    async def pour(_: Request, response: Response) -> None:
        response.start(200)
        try:
            while True:
                response.write(b"x" * 65536)
                await response.drain()
        finally:
            cancelled.set()

    async with running(pour, write_timeout_seconds=0.1) as server, client(server) as one:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.send(GET)
        async with asyncio.timeout(60):
            await cancelled.wait()


# --- back-pressure


async def test_drain_waits_until_the_client_reads() -> None:
    written = 0
    total = 400

    async def pour(_: Request, response: Response) -> None:
        nonlocal written
        response.start(200)
        for __ in range(total):
            response.write(b"x" * 65536)
            await response.drain()
            written += 1
        response.end()

    async with running(pour) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(one, GET)
            stalled_at = -1
            while stalled_at != written or written == 0:
                stalled_at = written
                await asyncio.sleep(0.05)
            assert 0 < written < total
            received = 0
            async with asyncio.timeout(30):
                while received < total * 65536:
                    received += len(await loop.sock_recv(one, 1 << 20))
    assert written == total


async def test_a_handler_can_be_told_of_back_pressure_by_callbacks() -> None:
    calls: list[str] = []
    resumed = asyncio.Event()

    def on_resume() -> None:
        calls.append("resume")
        resumed.set()

    async def pour(_: Request, response: Response) -> None:
        response.on_backpressure(lambda: calls.append("pause"), on_resume)
        response.start(200)
        response.write(b"x" * 20_000_000)
        await resumed.wait()
        response.end()

    async with running(pour) as server, client(server) as one:
        one.send(GET)
        received = 0
        async with asyncio.timeout(20):
            while received < 20_000_000:
                received += len(await one.reader.read(1 << 20))
            await resumed.wait()
    assert calls[:2] == ["pause", "resume"]
