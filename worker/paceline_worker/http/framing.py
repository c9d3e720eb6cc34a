"""Pure checks and bytes of HTTP/1.1 framing that a connection of the server needs beside its parser."""

from __future__ import annotations

import httptools

from paceline_worker.http.headers import error_body
from paceline_worker.http.message import Request


def split_target(target: bytes) -> tuple[str, str]:
    """Path and query of a request target in origin or absolute form."""
    if not target.startswith(b"/") and b"://" in target:
        parsed = httptools.parse_url(target)
        return (parsed.path or b"/").decode("latin-1"), (parsed.query or b"").decode("latin-1")
    path, _, query = target.partition(b"?")
    return path.decode("latin-1"), query.decode("latin-1")


def head_problem(request: Request, version: str, max_body_bytes: int) -> tuple[int, str] | None:
    """What a strict server refuses beyond the parser: RFC 9112, 3.2, 6.1 and 6.3."""
    hosts = 0
    for name, value in request.headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if int(value) > max_body_bytes:
                return 413, f"The body is over the limit of {max_body_bytes} bytes."
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or not request.http11:
                return 400, "Transfer-Encoding: only chunked is known, and only in HTTP/1.1."
        elif name == b"expect" and value.lower() != b"100-continue":
            return 417, "Expect: only 100-continue is known."
    if version not in ("1.0", "1.1"):
        return 505, "Only HTTP/1.1 and HTTP/1.0 are spoken here."
    if hosts > 1 or (request.http11 and hosts == 0):
        return 400, "Exactly one Host header is required."
    return None


def refusal(status: int, message: str) -> bytes:
    """A whole answer to a request that is not to be read any further."""
    body = error_body(status, message)
    head = b"HTTP/1.1 %d Refused\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, len(body)) + body
