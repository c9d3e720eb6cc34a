"""What can go wrong between the router and an engine.

::

    EngineError
    └── UpstreamError           root; ``sent`` says whether the request may have reached the engine
        ├── UpstreamUnreachable no connection: refused, no route, no name, or not within the connect timeout
        ├── UpstreamTimeout     no first byte, or a pause within the answer, for longer than allowed
        ├── UpstreamClosed      the connection ended before the answer did
        └── UpstreamGarbage     the answer is not HTTP, or over a limit
"""

from __future__ import annotations

from paceline.errors import EngineError


class UpstreamError(EngineError):
    """Root of this module's tree. ``plain``: the message without what the upstream said itself, if that is in it."""

    sent = True
    """Whether the request may have reached the upstream."""

    def __init__(self, message: str, *, plain: str | None = None) -> None:
        super().__init__(message)
        self.plain = message if plain is None else plain
        """For logs: what an upstream says may hold what clients sent."""


class UpstreamUnreachable(UpstreamError):
    """No connection could be made, so the request was not sent."""

    sent = False


class UpstreamTimeout(UpstreamError):
    """The upstream kept silent for too long."""


class UpstreamClosed(UpstreamError):
    """The connection ended before the answer did.

    ``stale`` is true when a kept-alive connection ended before any byte of the answer: that is how an upstream's own
    idle timeout shows, and says nothing about its health.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class UpstreamGarbage(UpstreamError):
    """The answer is not HTTP, or is over a limit."""
