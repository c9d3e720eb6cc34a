"""Errors that the emulator answers, shaped and numbered as vLLM's."""

from __future__ import annotations

import msgspec


class ApiError(Exception):
    """A request that is refused. Becomes ``{"error": {message, type, param, code}}`` with that status."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """The JSON that a client gets."""
        return msgspec.json.encode(
            {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}
        )


def malformed(message: str, param: str | None = None) -> ApiError:
    """The body is not JSON, or a field has the wrong type."""
    return ApiError(message, kind="Bad Request", param=param)


def not_found(message: str, *, param: str | None = None) -> ApiError:
    """There is no such model."""
    return ApiError(message, status=404, kind="NotFoundError", param=param)
