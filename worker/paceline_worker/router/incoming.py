"""One request on its way: what was parsed of it, and how to ask an engine for it."""

from __future__ import annotations

import msgspec

from paceline_worker.router.fleet import Engine
from paceline_worker.router.hints import Hints
from paceline_worker.router.parse import Call
from paceline_worker.router.slo import NO_CLASS
from paceline_worker.router.tenants.accounts import NO_VISIT, Visit
from paceline_worker.router.tracing.trace import NO_TRACE, Trace


class Incoming(msgspec.Struct, frozen=True):
    """Made once for each request."""

    call: Call
    hints: Hints
    target: bytes
    """Path and query."""
    headers: bytes
    """Header lines for engines, the request id among them."""
    request_id: tuple[bytes, bytes]
    arrived: float
    """By the clock."""
    trace: Trace = NO_TRACE
    visit: Visit = NO_VISIT
    """Of its tenant."""

    @property
    def request_class(self) -> str:
        """By which its objective is counted."""
        return self.hints.request_class or NO_CLASS

    @property
    def name(self) -> str:
        """The request id, for logs."""
        return self.request_id[1].decode("latin-1")

    def payload(self, engine: Engine, body: bytes) -> bytes:
        """The whole request for one engine."""
        head = b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n%b\r\n"
        return head % (self.target, engine.host_header, len(body), self.headers + self.trace.header()) + body
