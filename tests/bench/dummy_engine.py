"""An engine that computes nothing, as cheap as Python can be, so that a measurement behind it shows the router.

Run: ``python -m tests.bench.dummy_engine PORT``. POST answers a completion, or 64 events a fixed pause apart when the
body asks for a stream; any GET answers 200. Answers carry ``kv_transfer_params``, so it serves as a prefill engine too.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

CHUNKS = 64
PAUSE_SECONDS = 0.005
"""Far apart enough that a router can't take two chunks with one read."""

_CHOICE = b'"choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]'
_EVENT = b'data: {"id":"cmpl-1","object":"text_completion","created":0,"model":"bench",%b}\n\n' % _CHOICE
_LAST = b"data: [DONE]\n\n"
_BODY = (
    b'{"id":"cmpl-1","object":"text_completion","created":0,"model":"bench",%b,'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10},'
    b'"kv_transfer_params":{"do_remote_prefill":true,"remote_engine_id":"e","remote_block_ids":[1,2,3]}}' % _CHOICE
)
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_GET = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        if head.startswith(b"GET"):
            self._received = body
            self._write(_GET)
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = body[length:]
        if b'"stream":true' in body:
            self._left = CHUNKS
            self._write(_STREAM_HEAD)
            self._next()
        else:
            self._write(_WHOLE)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        self._left -= 1
        if self._left:
            self._write(_chunk(_EVENT))
            self._loop.call_later(PAUSE_SECONDS, self._next)
        else:
            self._write(_chunk(_LAST) + b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
