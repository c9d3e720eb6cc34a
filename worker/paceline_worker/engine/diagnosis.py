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

_TALK: Final = re.compile(r"^(?:\([^)]*pid=\d+\)\s*)?(?:INFO|DEBUG)\b")
"""Lines that may repeat what a client wrote, if the user has requests logged."""
_OUT_OF_MEMORY: Final = re.compile(r"out of memory", re.IGNORECASE)
_ACCELERATOR: Final = re.compile(
    r"(?:\[rank\d+\]:\s*)?(?:[A-Za-z_][\w.]*:\s|what\(\):\s+|\[[\d. ]+\]\s*)*"
    r"(?:CUDA (?:driver )?error: |HIP error: |CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)"
    r"|cuDNN error: CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)|uncorrectable (?:ECC|NVLink) error"
    r"|device-side assert triggered|an illegal memory access|GPU is lost|GPU has fallen off the bus|Xid \()",
    re.IGNORECASE,
)
"""Errors after which a process can use its accelerator no more: at the beginning of a line, or of the message of an
exception. Further on in a line it may be anybody's words.
"""
_FABRIC: Final = re.compile(
    r"NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclRemoteError|ncclInternalError|NCCL watchdog"
    r"|ProcessGroupNCCL|NIXL_ERR_|nixl\w*(?:Error|Exception)\b",
    re.IGNORECASE,
)
"""What joins accelerators. A transfer from an engine that died ends in such a line, too, and does no harm: it counts
only as the reason for which a process ended.
"""


def accelerator_fault(line: str) -> str | None:
    """What a line of output says of a fault after which the engine is of no use; None where it says none.

    Called for every line as it comes, from the thread that reads them.
    """
    if _TALK.match(line):
        return None
    said = _PREFIX.sub("", line).strip()
    if _ACCELERATOR.match(said) is None or _OUT_OF_MEMORY.search(said):
        return None
    return _cut(said)


def hardware_fault(lines: Sequence[str]) -> str | None:
    """What says that hardware ended a process: of several such lines the first, the others follow from it."""
    for line in lines:
        found = accelerator_fault(line)
        if found is not None:
            return found
    reason = _reason(lines)
    return None if reason is None or _FABRIC.search(reason) is None else _cut(reason)


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
