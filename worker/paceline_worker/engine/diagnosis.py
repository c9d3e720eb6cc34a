"""Why a child ended, in one line, from its exit status and its last output. Called by the worker; pure.

vLLM prints tracebacks of several processes over each other; the line that says what went wrong is the last error that
is not merely about another process having failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MESSAGE_LIMIT: Final = 600
"""Characters; validation errors of vLLM can be pages long."""

_ERROR: Final = re.compile(r"(?:^|[\s.])((?:[A-Za-z_][\w.]*)?(?:Error|Exception|Interrupt|Exit)\b: ?.*|.*\berror: .*)$")
# `(EngineCore pid=12) ERROR 11-21 04:43:03 [core.py:99] `
_PREFIX: Final = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?")
# Errors that only report another one.
_SECONDHAND: Final = ("see root cause above", "engine core initialization failed", "enginedeaderror", "cancellederror")
_KNOWN: Final = (
    (re.compile(r"address already in use", re.IGNORECASE), "a port that it needs is taken by another process"),
    (re.compile(r"out of memory", re.IGNORECASE), "the accelerator's memory is too small for this configuration"),
    (re.compile(r"No module named '?vllm\b"), "vLLM is not installed in this image"),
)


def explain_exit(program: str, ending: str, lines: Sequence[str], *, when: str) -> str:
    """One sentence or two. ``ending`` says how the child ended, ``when`` what it was doing."""
    start = f"{program} ended with {ending} {when}"
    reason = _reason(lines)
    if reason is None:
        return f"{start} and said nothing."
    for pattern, meaning in _KNOWN:
        if pattern.search(reason):
            return f"{start}: {meaning} ({_cut(reason)})."
    return f"{start}: {_cut(reason)}"


def _reason(lines: Sequence[str]) -> str | None:
    plain = [_PREFIX.sub("", line).strip() for line in lines]
    errors = [match.group(1) for line in plain if (match := _ERROR.search(line))]
    firsthand = [error for error in errors if not any(text in error.lower() for text in _SECONDHAND)]
    for found in (firsthand, errors, [line for line in plain if line]):
        if found:
            return found[-1]
    return None


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]} ..."
