"""Errors that a client of the router sees, as error objects in OpenAI's shape."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paceline.errors import PacelineError
from paceline_worker.http.headers import JSON, error_body
from paceline_worker.http.message import Response

_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Refused(StrEnum):
    """Why there is no room for a request: ``reason`` of ``paceline_router_rejections_total``."""

    QUEUE_FULL = "queue-full"
    QUEUE_MEMORY = "queue-memory"
    IN_VAIN = "in-vain"
    QUEUE_TIMEOUT = "queue-timeout"
    NO_ENGINE = "no-engine"


class ApiError(PacelineError):
    """A request ends with this status. The message is for the client and names field, value and what is allowed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        reason: Refused | None = None,
        retry_after: int | None = None,
        plain: str | None = None,
    ) -> None:
        super().__init__(message)
        self.plain = message if plain is None else plain
        """The message for logs, where the other one quotes an engine."""
        self.status = status
        self.param = param
        self.reason = reason
        """None when it is no matter of room."""
        self.retry_after = retry_after
        """Seconds."""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        """More of them."""

    def body(self) -> bytes:
        """The error object."""
        kind = _KINDS.get(self.status, "upstream_error")
        return error_body(self.status, str(self), kind=kind, param=self.param)

    def send(self, response: Response, *headers: tuple[bytes, bytes]) -> None:
        """Answer with it."""
        extra = [JSON, *headers, *self.headers]
        if self.retry_after is not None:
            extra.append((b"retry-after", str(self.retry_after).encode()))
        response.send(self.status, self.body(), extra)

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream that began well."""
        return b"data: %b\n\n" % self.body()


def method_not_allowed(method: str, path: str, allowed: str) -> ApiError:
    """405."""
    error = ApiError(405, f"{method} is not allowed on {path}; use {allowed}.")
    error.headers = ((b"allow", allowed.encode()),)
    return error
