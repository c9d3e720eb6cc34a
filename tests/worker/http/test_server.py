"""The server refuses what a strict HTTP/1.1 server must, bounds what a client can take, and answers in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

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
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(end)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of one answer with a Content-Length."""
        head = await self.until(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        async with asyncio.timeout(10):
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
        async with asyncio.timeout(10):
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


# --- answers


async def test_pipelined_requests_are_answered_one_by_one_in_order() -> None:
    running_now = 0
    most = 0

    async def slow(request: Request, response: Response) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.001)
        running_now -= 1
        response.send(200, request.path.encode())

    async with running(slow) as server, client(server) as one:
        one.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(50)))
        assert [await one.answer() for _ in range(50)] == [(200, b"/%d" % number) for number in range(50)]
    assert most == 1


async def test_pipelining_without_end_is_refused() -> None:
    async with running() as server, client(server) as one:
        one.send(GET * 2000)
        answer = await one.rest()
    assert b" 400 " in answer
    assert answer.count(b" 200 OK") < 2000


async def test_a_request_in_pieces_is_one_request() -> None:
    async with running() as server, client(server) as one:
        for byte in b"POST /x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":
            one.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await one.answer() == (200, b"abc")


async def test_what_a_handler_sees_of_a_request() -> None:
    seen: list[Request] = []

    async def look(request: Request, response: Response) -> None:
        seen.append(request)
        response.send(204, b"")

    async with running(look) as server, client(server) as one:
        one.send(b"PUT http://a.example/p%20q?r=1&s HTTP/1.1\r\nHost: a.example\r\nX-Two:  b \t\r\nX-Two: c\r\n\r\n")
        head = await one.until(b"\r\n\r\n")
    request = seen[0]
    assert (request.method, request.path, request.query) == ("PUT", "/p%20q", "r=1&s")
    assert request.header(b"x-two") == b"b"
    assert request.header(b"x-three") is None
    assert request.peer.startswith("127.0.0.1:")
    assert b"content-length" not in head


async def test_a_client_that_waits_for_100_gets_it_after_the_answers_before_it() -> None:
    async with running() as server, client(server) as one:
        expecting = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        one.send(GET + expecting)
        assert await one.answer() == (200, b"/")
        assert await one.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.send(b"abc")
        assert await one.answer() == (200, b"abc")


async def test_head_gets_the_head_alone() -> None:
    async def stream(request: Request, response: Response) -> None:
        if request.path == "/whole":
            response.send(200, b"abc")
            return
        response.start(200)
        response.write(b"abc")
        response.end()

    async with running(stream) as server, client(server) as one:
        one.send(b"HEAD /whole HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await one.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"abc" not in answer


async def test_a_stream_is_chunked_and_its_head_comes_with_the_first_chunk() -> None:
    async def stream(_: Request, response: Response) -> None:
        response.start(200, ((b"content-type", b"text/event-stream"),))
        response.write(b"one")
        response.write(b"")
        await response.drain()
        response.write(b"three")
        response.end()

    async with running(stream) as server, client(server) as one:
        one.send(GET)
        answer = await one.until(b"0\r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    )


async def test_the_head_of_a_stream_does_not_wait_for_its_first_chunk() -> None:
    go = asyncio.Event()

    async def stream(_: Request, response: Response) -> None:
        response.start(200)
        await go.wait()
        response.end()

    async with running(stream) as server, client(server) as one:
        one.send(GET)
        assert (await one.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        go.set()
        assert await one.until(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    async def stream(_: Request, response: Response) -> None:
        response.start(200)
        response.write(b"one")
        response.end()

    async with running(stream) as server:
        answer = await exchange(server, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\none"


async def test_a_request_to_upgrade_is_answered_as_if_it_had_not_asked() -> None:
    async with running() as server:
        answer = await exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer


# --- what handlers do wrong


async def test_a_handler_that_fails_costs_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request, __: Response) -> None:
        raise RuntimeError("secret detail")

    async with running(fail) as server, client(server) as one:
        one.send(GET + GET)
        status, body = await one.answer()
        assert (await one.answer())[0] == 500, "the connection lives on"
    assert status == 500
    assert b"secret" not in body
    assert "secret detail" in caplog.text


async def test_an_answer_that_is_cut_by_a_failure_is_seen_to_be_cut() -> None:
    async def fail(_: Request, response: Response) -> None:
        response.start(200)
        response.write(b"one")
        await response.drain()
        raise RuntimeError("in the middle")

    async with running(fail) as server, client(server) as one:
        one.send(GET)
        await one.until(b"one\r\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await one.until(b"0\r\n\r\n")


async def test_a_response_can_not_be_started_twice() -> None:
    problems: list[str] = []

    async def twice(_: Request, response: Response) -> None:
        response.send(200, b"")
        try:
            response.send(500, b"")
        except RuntimeError as error:
            problems.append(str(error))

    async with running(twice) as server, client(server) as one:
        one.send(GET)
        assert await one.answer() == (200, b"")
    assert problems == ["a response with status 200 was started already"]


# --- the end


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_client_that_goes_away_cancels_its_handler(how: str) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def wait(_: Request, response: Response) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert response.is_disconnected
            gone.set()

    async with running(wait) as server, client(server) as one:
        one.send(GET)
        await begun.wait()
        if how == "close":
            one.writer.close()
        elif how == "half-close":
            one.writer.write_eof()
        else:
            one.writer.transport.abort()
        async with asyncio.timeout(10):
            await gone.wait()


async def test_a_client_that_is_gone_before_its_handler_began_leaves_nothing_behind() -> None:
    async with running() as server:
        for _ in range(20):
            async with client(server) as one:
                one.send(GET)
                one.writer.write_eof()
                await one.rest()


async def test_a_response_tells_when_its_client_is_gone() -> None:
    told = asyncio.Event()
    begun = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def watch(response: Response) -> None:
        await response.wait_disconnected()
        told.set()

    async def wait(_: Request, response: Response) -> None:
        tasks.append(asyncio.create_task(watch(response)))
        begun.set()
        await asyncio.Event().wait()

    async with running(wait) as server:
        async with client(server) as one:
            one.send(GET)
            await begun.wait()
        async with asyncio.timeout(10):
            await told.wait()
            await tasks[0]


async def test_closing_lets_running_requests_finish_and_refuses_new_ones() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(_: Request, response: Response) -> None:
        begun.set()
        await go.wait()
        response.send(200, b"done")

    async with running(wait) as server, client(server) as busy, client(server) as idle:
        busy.send(GET)
        await begun.wait()
        closing = asyncio.create_task(server.close(10))
        assert await idle.rest() == b"", "an idle connection closes at once"
        with pytest.raises(OSError, match="onnect"):
            await asyncio.open_connection("127.0.0.1", server.port)
        go.set()
        answer = await busy.rest()
        await closing
    assert answer.endswith(b"connection: close\r\n\r\ndone")


async def test_closing_drops_what_does_not_finish_in_time() -> None:
    begun = asyncio.Event()

    async def wait(_: Request, __: Response) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with running(wait) as server, client(server) as one:
        one.send(GET)
        await begun.wait()
        await server.close(0.05)
        assert server.active_requests == 0


async def test_a_port_in_use_is_an_error() -> None:
    async with running() as server:
        with pytest.raises(OSError, match="in use"):
            await serve(echo, "127.0.0.1", server.port, limits=Limits())
