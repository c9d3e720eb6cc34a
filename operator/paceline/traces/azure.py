"""Reader of the Azure LLM inference traces (Azure Public Dataset): CSV with ``TIMESTAMP``, ``ContextTokens`` and
``GeneratedTokens``. They say nothing of prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from paceline.traces.record import Trace, TraceRequest
from paceline.traces.rows import read_csv, tokens

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - only differences matter, and the files name no zone


def read_azure(path: Path) -> Trace:
    """Read a whole trace; it begins with its first request. Raises TraceError."""
    trace = read_csv(path, COLUMNS, _parse, kind="an Azure LLM trace")
    first = trace.requests[0].arrival_seconds
    return replace(
        trace, requests=tuple(replace(one, arrival_seconds=one.arrival_seconds - first) for one in trace.requests)
    )


def _parse(row: Mapping[str, str]) -> TraceRequest:
    stamp = row["timestamp"].strip()
    try:
        at = datetime.fromisoformat(stamp).replace(tzinfo=None)
    except ValueError:
        raise ValueError(f"TIMESTAMP must be a date and time, not {stamp[:40]!r}") from None
    return TraceRequest(
        arrival_seconds=(at - _EPOCH).total_seconds(),
        input_tokens=tokens(row["contexttokens"], "ContextTokens"),
        output_tokens=tokens(row["generatedtokens"], "GeneratedTokens"),
    )
