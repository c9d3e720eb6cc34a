"""What the flow wants to know of an engine's answer besides its status: which headers go on, and whether it is one."""

from __future__ import annotations

from paceline_worker.http.headers import Headers, end_to_end


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Its headers, without those that the router writes itself."""
    return [pair for pair in end_to_end(headers) if pair[0] not in (b"x-request-id", b"date", b"server")]


def looks_like_json(body: bytes) -> bool:
    """The outermost brackets only: cheap, and enough to tell an engine's answer from a stray page."""
    stripped = body.strip()
    return (stripped[:1], stripped[-1:]) in ((b"{", b"}"), (b"[", b"]"))


def excerpt(body: bytes) -> str:
    """Its beginning, for a log."""
    return body[:200].decode("utf-8", "replace")
