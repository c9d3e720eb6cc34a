"""A load client for the router's measurement: closed loop, raw asyncio, cheap enough not to be what is measured.

Run: ``python -m tests.bench.http_load PORT CONNECTIONS SECONDS small|stream|long``. Prints one line of JSON: requests
that completed after the warm-up, all that were sent, seconds, failures, and latencies in microseconds (p50, p99 and
p99.9; of whole answers, or of a stream's first byte). Each prompt begins with a number of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

WARM_UP_SHARE = 0.2
"""Of the time; its requests are not counted."""


DIGITS = 12
LONG_BYTES = 65_536


def request(kind: str) -> tuple[bytes, bytes]:
    """What is sent before the number, and after it."""
    text = "Tell me something about the sea. "
    prompt = "#" * DIGITS + text * (LONG_BYTES // len(text) if kind == "long" else 4)
    body = {"model": "bench", "prompt": prompt, "max_tokens": 64, "stream": kind == "stream"}
    encoded = json.dumps(body, separators=(",", ":")).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    whole = head.encode() + b"content-length: %d\r\n\r\n" % len(encoded) + encoded
    before, _, after = whole.partition(b"#" * DIGITS)
    return before, after


class Client(asyncio.Protocol):
    """One connection that sends the next request when the last is answered."""

    def __init__(self, number: int, payload: tuple[bytes, bytes], stream: bool, until: float, warm: float) -> None:
        self._before, self._after = payload
        self._number = number * 10**6
        self._stream = stream
        self._until = until
        self._warm = warm
        self._received = b""
        self.latencies: list[float] = []
        self.failures = 0
        self.sent = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._received = b""
        self._first = 0.0
        self.sent += 1
        self._sent = time.perf_counter()
        number = b"%0*d" % (DIGITS, self._number + self.sent)
        self._transport.write(self._before + number + self._after)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._first = self._first or now
        if self._stream:
            self._received = self._received[-16:] + data
            if not self._received.endswith(b"0\r\n\r\n"):
                return
        else:
            self._received += data
            head, separator, body = self._received.partition(b"\r\n\r\n")
            if not separator or not body:
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(body) < length:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.failures += 1
        if self._sent >= self._warm:
            self.latencies.append((self._first if self._stream else now) - self._sent)
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.failures += 1
            self.done.set_result(None)


async def main() -> None:
    port, connections, seconds, kind = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    warm, until = begin + seconds * WARM_UP_SHARE, begin + seconds
    payload, stream = request(kind), kind == "stream"
    clients = []
    for number in range(connections):
        _transport, client = await loop.create_connection(
            lambda number=number: Client(number, payload, stream, until, warm),  # type: ignore[misc]
            "127.0.0.1", port,
        )  # fmt: skip
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    latencies = sorted(latency for client in clients for latency in client.latencies)
    result = {
        "requests": len(latencies),
        "sent": sum(client.sent for client in clients),
        "seconds": time.perf_counter() - warm,
        "failures": sum(client.failures for client in clients),
        "p50_us": latencies[len(latencies) // 2] * 1e6 if latencies else 0.0,
        "p99_us": latencies[int(len(latencies) * 0.99)] * 1e6 if latencies else 0.0,
        "p999_us": latencies[int(len(latencies) * 0.999)] * 1e6 if latencies else 0.0,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    uvloop.run(main())
