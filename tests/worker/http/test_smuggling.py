"""Two parsers of one connection must never disagree on where a request ends: what could be read in two ways is refused,
and what is not refused goes on in a single form. The shorter list of `test_server_limits` is the framing's own.
"""

from __future__ import annotations

import pytest

from paceline_worker.http.server import Request, Response
from tests.worker.http.raw import GET, client, exchange, running

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def sized(value: bytes) -> bytes:
    return POST + b"Content-Length:" + value + b"\r\n\r\nabc"


def coded(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding:" + value + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


REFUSED = {
    "a length with a space in it": sized(b" 3 3"),
    "no length": sized(b""),
    "a hexadecimal length": sized(b" 0x3"),
    "a negative length": sized(b" -3"),
    "a length with an underscore": sized(b" 0_3"),
    "a fractional length": sized(b" 3.0"),
    "a length behind a vertical tab": sized(b" \x0b3"),
    "a length beyond 64 bits": sized(b" 18446744073709551619"),
    "a folded length": sized(b"\r\n 3"),
    "a length in other digits": sized(" ٣".encode()),
    "a coding behind a vertical tab": coded(b" \x0bchunked"),
    "a quoted coding": coded(b' "chunked"'),
    "a coding with a parameter": coded(b" chunked;q=1"),
    "chunked twice": coded(b" chunked, chunked"),
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and nothing": coded(b" chunked,"),
    "nothing and chunked": coded(b" ,chunked"),
    "identity": coded(b" identity"),
    "no coding": coded(b""),
    "a space before the coding's colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded coding": coded(b"\r\n chunked"),
    "a chunk extension that ends in a bare line feed": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "a chunk extension with a bare carriage return": CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "a chunk extension with a zero byte": CHUNKED + b"3;\0\r\nabc\r\n0\r\n\r\n",
    "a chunk extension whose quotes hold a line end": CHUNKED + b'3;a="\r\nabc\r\n0\r\n\r\n',
    "a space behind a chunk's size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "a space before a chunk's size": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a signed chunk": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "a chunk's size with an underscore": CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n",
    "a chunk's size that ends in a bare line feed": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a chunk that ends in a bare line feed": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a last chunk that ends in a bare line feed": CHUNKED + b"3\r\nabc\r\n0\n\r\n",
    "a length among the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "a coding among the trailers": CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nb\r\n\r\n",
    "a space in a header's name": b"GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
    "a zero byte in a header's name": b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
    "a tab in the request line": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a control character in the target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a version that is none": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(data: bytes) -> None:
    async with running() as server:
        answer = await exchange(server, data + GET)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_request_without_a_version_is_of_one_that_is_not_spoken() -> None:
    async with running() as server:
        assert (await exchange(server, b"GET /\r\nHost: a\r\n\r\n" + GET)).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\nHost: b\r\nX-Trailer: c\r\n\r\n",
        CHUNKED + b"1\r\na\r\n02\r\nbc\r\n000\r\n\r\n",
        POST + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        sized(b"   3\t"),
    ],
    ids=["a chunk extension", "trailers", "zeros before a size", "in capitals", "blanks around a length"],
)
async def test_what_is_allowed_and_means_one_thing_leaves_no_trace_of_its_form(data: bytes) -> None:
    seen: list[Request] = []

    async def note(request: Request, response: Response) -> None:
        seen.append(request)
        response.send(200, b"")

    async with running(note) as server, client(server) as one:
        one.send(data + GET)
        assert [(await one.answer())[0] for _ in range(2)] == [200, 200]
    assert [request.body for request in seen] == [b"abc", b""]
    assert [value for name, value in seen[0].headers if name in (b"host", b"x-trailer")] == [b"a"]
