"""Reader of BurstGPT traces: CSV with ``Timestamp`` (s), ``Request tokens``, ``Response tokens`` and, in newer
releases, ``Session ID``. They say nothing of prefixes. Requests that failed have no response tokens and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from paceline.traces.record import Trace, TraceRequest
from paceline.traces.rows import read_csv, tokens

COLUMNS: Final = ("Timestamp", "Request tokens", "Response tokens")


def read_burstgpt(path: Path) -> Trace:
    """Read a whole trace; it begins with its first request. Raises TraceError."""
    trace = read_csv(path, COLUMNS, _parse, kind="a BurstGPT trace")
    first = trace.requests[0].arrival_seconds
    return replace(
        trace, requests=tuple(replace(one, arrival_seconds=one.arrival_seconds - first) for one in trace.requests)
    )


def _parse(row: Mapping[str, str]) -> TraceRequest:
    stamp = row["timestamp"].strip()
    try:
        seconds = float(stamp)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"Timestamp must be a number of seconds, not {stamp[:40]!r}")
    if row["response tokens"].strip() == "0":
        raise ValueError("Response tokens is 0: the request failed")
    return TraceRequest(
        arrival_seconds=seconds,
        input_tokens=tokens(row["request tokens"], "Request tokens"),
        output_tokens=tokens(row["response tokens"], "Response tokens"),
        session=row.get("session id") or None,
    )
