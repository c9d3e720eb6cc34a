"""Small pure helpers on HTTP headers, shared by the server and the upstream client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

Headers = Sequence[tuple[bytes, bytes]]
"""Names are lower-case; values carry no surrounding whitespace."""

JSON: Final = (b"content-type", b"application/json")

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Belong to one connection (RFC 9110, 7.6.1) or are written anew by whoever frames the next message."""


def find(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers a proxy passes on: all but those of the connection, and those that ``Connection`` names."""
    named: frozenset[bytes] = frozenset()
    kept = []
    for pair in headers:
        if pair[0] not in _HOP_BY_HOP:
            kept.append(pair)
        elif pair[0] == b"connection":
            named |= {token.strip().lower() for token in pair[1].split(b",")}
    if named - {b"close", b"keep-alive"}:
        return [pair for pair in kept if pair[0] not in named]
    return kept


def render(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header lines, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def error_body(status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None) -> bytes:
    """An error object in OpenAI's shape, the only one this project's HTTP servers answer with."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})
