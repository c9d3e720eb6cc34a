"""The pool keeps connections alive, times out, passes back-pressure on, and says what an upstream did wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from paceline_worker.http.client import Address, Pool, PoolLimits
from paceline_worker.http.errors import (
    UpstreamClosed,
    UpstreamError,
    UpstreamGarbage,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from paceline_worker.http.headers import end_to_end

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A socket server that follows a script for each connection, and knows how many there were."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.accepted = 0
        self.lost = asyncio.Event()
        self.address: Address = ("127.0.0.1", 0)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


def each_request(*answers: bytes) -> Script:
    """Answer one request after another with these pieces."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for piece in answers:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    return script


def once(*answers: bytes) -> Script:
    """Answer one request and close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in answers:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)

    return script


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    one = Upstream(script)
    server = await asyncio.start_server(one.accept, "127.0.0.1", 0)
    one.address = server.sockets[0].getsockname()
    try:
        yield one
    finally:
        server.close()


@asynccontextmanager
async def pool(**limits: float) -> AsyncIterator[Pool]:
    one = Pool(PoolLimits(**limits))  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.close()
        assert one.connections == 0
        await asyncio.sleep(0.01)  # scripts of the test server see the end of their connections


async def fetch(one: Pool, address: Address, payload: bytes = GET) -> tuple[int, bytes]:
    exchange = await one.open(address, payload)
    try:
        return exchange.status, await exchange.read(1 << 20)
    finally:
        exchange.close()


async def test_a_connection_is_used_again() -> None:
    async with upstream(each_request(OK)) as server, pool() as one:
        for _ in range(5):
            assert await fetch(one, server.address) == (200, b"ok")
        assert server.accepted == 1
        assert one.idle == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param([OK], b"ok", id="length"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ntransfer-en", b"coding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"], b"ok", id="chunked"
        ),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", OK], b"ok", id="after an interim answer"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], b"ok", id="with an interim answer"),
        pytest.param([b"HTTP/1.1 204 No Content\r\n\r\n"], b"", id="no content"),
        pytest.param([*(bytes([byte]) for byte in OK)], b"ok", id="byte by byte"),
    ],
)
async def test_answers_in_all_framings_leave_the_connection_usable(answer: list[bytes], body: bytes) -> None:
    async with upstream(each_request(*answer)) as server, pool() as one:
        for _ in range(2):
            assert (await fetch(one, server.address))[1] == body
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\n", b"o", b"k"], b"ok", id="until the end"),
        pytest.param([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"], b"ok", id="HTTP/1.0"),
        pytest.param([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"], b"ok", id="close"),
    ],
)
async def test_a_connection_that_ends_with_its_answer_is_not_kept(answer: list[bytes], body: bytes) -> None:
    async with upstream(once(*answer)) as server, pool() as one:
        for _ in range(2):
            assert (await fetch(one, server.address))[1] == body
        assert server.accepted == 2
        assert one.idle == 0


async def test_an_answer_nobody_asked_for_makes_the_connection_unusable() -> None:
    async with upstream(each_request(OK + OK)) as server, pool() as one:
        for _ in range(2):
            assert await fetch(one, server.address) == (200, b"ok")
        assert server.accepted == 2


async def test_a_kept_connection_that_the_upstream_closed_is_not_used() -> None:
    async with upstream(once(OK)) as server, pool() as one:
        assert await fetch(one, server.address) == (200, b"ok")
        async with asyncio.timeout(60):
            while one.connections:  # noqa: ASYNC110 - what has no event
                await asyncio.sleep(0.001)
        assert await fetch(one, server.address) == (200, b"ok")


async def test_a_kept_connection_that_dies_under_a_request_is_called_stale() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async with upstream(script) as server, pool() as one:
        await fetch(one, server.address)
        with pytest.raises(UpstreamClosed) as caught:
            await fetch(one, server.address)
    assert caught.value.stale


async def test_an_unused_connection_is_closed_after_its_time() -> None:
    async with upstream(each_request(OK)) as server, pool(keep_alive_seconds=0.02) as one:
        await fetch(one, server.address)
        async with asyncio.timeout(60):
            while one.connections:  # noqa: ASYNC110 - what has no event
                await asyncio.sleep(0.005)
        await fetch(one, server.address)
        assert server.accepted == 2


async def test_connections_to_a_forgotten_upstream_are_closed() -> None:
    async with upstream(each_request(OK)) as server, pool() as one:
        await fetch(one, server.address)
        one.forget(server.address)
        assert one.idle == 0
        await fetch(one, server.address)
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param([], UpstreamClosed, id="nothing"),
        pytest.param([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok"], UpstreamClosed, id="cut body"),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"], UpstreamClosed, id="cut chunks"
        ),
        pytest.param([b"HTTP/1.1 200"], UpstreamClosed, id="cut head"),
        pytest.param([b"I am not a web server\r\n\r\n"], UpstreamGarbage, id="another protocol"),
        pytest.param([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"], UpstreamGarbage, id="no chunk"),
        pytest.param([b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000], UpstreamGarbage, id="endless head"),
        pytest.param(
            [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nx"],
            UpstreamError,
            id="upgrade",
        ),
    ],
)
async def test_what_is_no_answer_is_a_typed_error(answer: list[bytes], error: type[UpstreamError]) -> None:
    async with upstream(once(*answer)) as server, pool() as one:
        with pytest.raises(error) as caught:
            await fetch(one, server.address)
    assert caught.value.sent


async def test_an_answer_over_the_limit_is_refused() -> None:
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000
    async with upstream(once(long)) as server, pool() as one:
        with pytest.raises(UpstreamGarbage, match="over 1048576 bytes"):
            await fetch(one, server.address)


async def test_no_connection_means_that_nothing_was_sent() -> None:
    async with upstream(each_request(OK)) as server:
        address = server.address
    async with pool() as one:
        with pytest.raises(UpstreamUnreachable) as caught:
            await fetch(one, address)
    assert not caught.value.sent


async def test_a_connection_given_up_in_the_moment_it_opens_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opens_and_stalls(factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        # What uvloop does when it is cancelled here: the protocol hears that it is connected, never that it is lost.
        factory().connection_made(asyncio.Transport())
        await asyncio.Event().wait()

    pool = Pool(PoolLimits(connect_seconds=0.05))
    monkeypatch.setattr(pool.loop, "create_connection", opens_and_stalls)
    with pytest.raises(UpstreamUnreachable, match="did not accept a connection"):
        await pool.open(("127.0.0.1", 1), GET)
    assert pool.connections == 0
    async with asyncio.timeout(60):
        await pool.close()


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async with upstream(each_request(b"")) as server, pool(first_byte_seconds=0.05) as one:
        with pytest.raises(UpstreamTimeout, match=r"no answer within 0\.05 s"):
            await fetch(one, server.address)


async def test_an_upstream_that_stops_in_the_middle_is_given_up() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok"
    async with upstream(each_request(head)) as server, pool(idle_seconds=0.05) as one:
        with pytest.raises(UpstreamTimeout, match="nothing more"):
            await fetch(one, server.address)


async def test_a_cancelled_request_cuts_its_connection() -> None:
    async with upstream(each_request(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok")) as server, pool() as one:
        task = asyncio.create_task(fetch(one, server.address))
        async with asyncio.timeout(60):
            while not server.accepted:  # noqa: ASYNC110 - what has no event
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.lost.wait()


async def test_the_first_bytes_of_a_body_can_be_waited_for_and_stay() -> None:
    more = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        await more.wait()
        writer.write(b"ab")
        await reader.read(1)  # the reader says nothing more: its end comes after the answer's
        writer.close()

    async with upstream(script) as server, pool() as one:
        exchange = await one.open(server.address, GET)
        ready = asyncio.create_task(exchange.ready())
        await asyncio.sleep(0)
        assert not ready.done()
        more.set()
        await ready
        taken: list[bytes] = []
        relay = asyncio.create_task(exchange.relay(taken.append))
        await asyncio.sleep(0)
        assert (taken, relay.done()) == ([b"ab"], False)
        exchange.reject(UpstreamGarbage("enough"))
        with pytest.raises(UpstreamGarbage):
            await relay


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"content-length: 0\r\n\r\n", None), (b"content-length: 4\r\n\r\n", UpstreamClosed)],
)
async def test_a_body_that_never_begins_is_not_waited_for(answer: bytes, error: type[UpstreamError] | None) -> None:
    async with upstream(once(b"HTTP/1.1 200 OK\r\n" + answer)) as server, pool() as one:
        exchange = await one.open(server.address, GET)
        try:
            if error is None:
                await exchange.ready()
                assert await exchange.read(10) == b""
            else:
                with pytest.raises(error):
                    await exchange.ready()
        finally:
            exchange.close()


async def test_reading_rests_while_the_reader_of_the_answer_does() -> None:
    total = 64 << 20
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1 << 20

    received = 0

    def take(piece: bytes) -> None:
        nonlocal received
        received += len(piece)
        if received == len(piece):
            exchange.pause()

    async with upstream(pour) as server, pool(idle_seconds=0.1) as one:
        exchange = await one.open(server.address, GET)
        relay = asyncio.create_task(exchange.relay(take))
        stalled_at = -1
        while stalled_at != sent or received == 0:
            stalled_at = sent
            await asyncio.sleep(0.3)  # longer than the idle timeout, which must not count a pause of our own
        assert sent < total
        exchange.resume()
        async with asyncio.timeout(30):
            await relay
        exchange.close()
    assert received == total


async def test_what_arrives_before_it_is_asked_for_is_bounded() -> None:
    total = 64 << 20
    long = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(long + bytes(total))
        await writer.drain()

    async with upstream(pour) as server, pool() as one:
        exchange = await one.open(server.address, GET)
        await asyncio.sleep(0.1)
        sizes: list[int] = []
        async with asyncio.timeout(30):
            await exchange.relay(lambda piece: sizes.append(len(piece)))
        exchange.close()
    assert sum(sizes) == total
    assert sizes[0] < 2 << 20


async def test_closing_the_pool_ends_what_still_runs() -> None:
    async with upstream(each_request(b"")) as server, pool() as one:
        task = asyncio.create_task(fetch(one, server.address))
        async with asyncio.timeout(60):
            while not server.accepted:  # noqa: ASYNC110 - what has no event
                await asyncio.sleep(0.001)
            await one.close()
        with pytest.raises(UpstreamClosed):
            await task


def test_headers_of_the_connection_are_not_passed_on() -> None:
    headers = [
        (b"host", b"a"), (b"connection", b"keep-alive, X-Mine"), (b"x-mine", b"1"), (b"x-yours", b"2"),
        (b"transfer-encoding", b"chunked"), (b"te", b"trailers"), (b"authorization", b"Bearer t"),
    ]  # fmt: skip
    assert end_to_end(headers) == [(b"x-yours", b"2"), (b"authorization", b"Bearer t")]
