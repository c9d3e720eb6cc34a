"""What an API server can answer besides what was asked for: one exception a cause, so that callers react by type.

Raised by :mod:`~paceline.controller.api`; the reconcile pass turns them into conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.errors import ClusterError


class ApiError(ClusterError):
    """An answer that is not a success. ``reason`` is Kubernetes' own word for it, empty where there is none."""

    def __init__(self, verb: str, resource: str, code: int, reason: str, message: str) -> None:
        self.verb = verb
        self.resource = resource
        self.code = code
        self.reason = reason
        super().__init__(f"{verb} {resource}: {message} ({code} {reason})".rstrip(" )") + ")")


class Forbidden(ApiError):
    """RBAC does not allow it, or an admission plug-in such as a quota refuses it."""


class NamespaceGoing(Forbidden):
    """Nothing new is made in a namespace that is being deleted."""


class NotFound(ApiError):
    """No such object, or no such kind."""


class Conflict(ApiError):
    """Somebody else was faster: the object exists already, or is another version than expected."""


class Invalid(ApiError):
    """The object itself is refused: schema, CEL rule or admission."""


class Gone(ApiError):
    """The version that a watch wanted to start from is too old."""


class Unreachable(ClusterError):
    """No answer, after all retries."""


class NotLeader(ClusterError):
    """This replica does not hold the lease (any more), so it must not write."""


def refusal(verb: str, resource: str, code: int, answer: Mapping[str, Any] | None, text: str) -> ApiError:
    """The exception for an answer. ``answer`` is a Kubernetes ``Status`` object where the server sent one."""
    reason = str((answer or {}).get("reason") or "")
    message = str((answer or {}).get("message") or text.strip()[:500] or "no message")
    if code == 403:
        causes = ((answer or {}).get("details") or {}).get("causes") or ()
        going = any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
        return (NamespaceGoing if going else Forbidden)(verb, resource, code, reason, message)
    if code == 404:
        return NotFound(verb, resource, code, reason, message)
    if code == 409:
        return Conflict(verb, resource, code, reason, message)
    if code == 410 or reason == "Expired":
        return Gone(verb, resource, code, reason, message)
    if code in {400, 422}:
        return Invalid(verb, resource, code, reason, message)
    return ApiError(verb, resource, code, reason, message)
