"""What a client may tell the router about a request, in ``x-paceline-*`` headers. They never reach an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from paceline.api import wire
from paceline_worker.http.message import Request
from paceline_worker.router.errors import ApiError

PREFIX: Final = b"x-paceline-"
MAX_PRIORITY: Final = 100
MAX_SESSION_BYTES: Final = 256
MAX_EXPECTED_OUTPUT: Final = 10_000_000

_YES: Final = frozenset({"1", "true", "yes"})
_NO: Final = frozenset({"0", "false", "no"})


class Explain(StrEnum):
    """Whether the client wants to know how it was placed."""

    NO = "no"
    ALSO = "also"
    """In a header of the answer."""
    ONLY = "only"
    """Instead of an answer."""


@dataclass(frozen=True, slots=True)
class Hints:
    """Hints of one request; None where there was none."""

    priority: int | None = None
    """-100 to 100; higher goes first."""
    request_class: str | None = None
    ttft_seconds: float | None = None
    """Of its class of requests."""
    session: str | None = None
    parent: str | None = None
    """Session that this one is a sub-agent of."""
    expected_output_tokens: int | None = None
    reuse: bool = True
    """False: nobody will ask for this prefix again."""
    prefetch: bool = False
    """Only compute the prompt, so that a later request finds it."""
    explain: Explain = Explain.NO


NO_HINTS: Final = Hints()


def read_hints(request: Request, classes: Mapping[str, wire.RequestClass]) -> Hints:
    """Hints of a request. Raises ApiError 400 that names the header."""
    given = {
        name[len(PREFIX) :].decode("latin-1"): value.decode("latin-1").strip()
        for name, value in request.headers
        if name.startswith(PREFIX)
    }
    if not given:
        return NO_HINTS
    chosen = _class(given, classes)
    priority = _integer(given, "priority", -MAX_PRIORITY, MAX_PRIORITY)
    return Hints(
        priority=chosen.priority if priority is None and chosen else priority,
        request_class=chosen.name if chosen else None,
        ttft_seconds=chosen.objective.ttft_milliseconds / 1000 if chosen else None,
        session=_session(given, "session"),
        parent=_session(given, "parent-session"),
        expected_output_tokens=_integer(given, "expected-output-tokens", 1, MAX_EXPECTED_OUTPUT),
        reuse=_boolean(given, "reuse", default=True),
        prefetch=_boolean(given, "prefetch", default=False),
        explain=_explain(given),
    )


def _class(given: Mapping[str, str], classes: Mapping[str, wire.RequestClass]) -> wire.RequestClass | None:
    name = given.get("class")
    if name is None:
        return None
    found = classes.get(name)
    if found is None:
        raise _bad("class", name, "one of " + ", ".join(sorted(classes)) if classes else "left out: there are none")
    return found


def _integer(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise _bad(name, text, f"an integer from {least} to {most}")


def _session(given: Mapping[str, str], name: str) -> str | None:
    text = given.get(name)
    if text is not None and not 0 < len(text) <= MAX_SESSION_BYTES:
        raise _bad(name, text, f"1 to {MAX_SESSION_BYTES} bytes long")
    return text


def _boolean(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = given.get(name)
    if text is None:
        return default
    if text.lower() not in _YES | _NO:
        raise _bad(name, text, "true or false")
    return text.lower() in _YES


def _explain(given: Mapping[str, str]) -> Explain:
    text = given.get("explain", "no").lower()
    if text == "only":
        return Explain.ONLY
    if text not in _YES | _NO:
        raise _bad("explain", text, "true, false or only")
    return Explain.ALSO if text in _YES else Explain.NO


def _bad(name: str, value: str, allowed: str) -> ApiError:
    header = (PREFIX + name.encode("latin-1")).decode("latin-1")
    return ApiError(400, f"{header}: must be {allowed}, not {value[:80]!r}.", param=header)
