"""The server answers in order, survives its handlers, and ends in good order."""

from __future__ import annotations

import asyncio

import pytest

from paceline_worker.http.server import Limits, Request, Response, serve
from tests.worker.http.raw import GET, client, echo, exchange, running

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
        async with asyncio.timeout(60):
            await gone.wait()


async def test_a_client_that_is_gone_before_its_handler_began_leaves_nothing_behind() -> None:
    async with running() as server:
        for _ in range(20):
            async with client(server) as one:
                one.send(GET)
                one.writer.write_eof()
                await one.rest()


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
