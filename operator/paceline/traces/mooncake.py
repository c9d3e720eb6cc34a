"""Reader of Mooncake traces: one JSON object a line with ``timestamp`` (ms), ``input_length``, ``output_length``,
``hash_ids``, and in some files ``session_id`` and ``delay`` (ms).

A hash id stands for 512 prompt tokens; equal ids are equal prefix blocks. The files are published with the FAST'25
paper on Mooncake. Tools that follow sessions write later turns without a time stamp: such a turn is sent ``delay``
after the answer to the one before. A trace has fixed arrivals, so how long that answer takes is assumed
(:func:`paceline.traces.record.assumed_answer_seconds`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.traces.record import Trace, TraceRequest, assumed_answer_seconds
from paceline.traces.rows import MAX_TOKENS, Parsed, read_lines
from paceline.unreadable import UNREADABLE

BLOCK_SIZE: Final = 512


class _Row(msgspec.Struct, frozen=True):
    """A row as it is in the file. Fields that later versions of the format may add are ignored."""

    input_length: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    output_length: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    timestamp: Annotated[float, Meta(ge=0)] | None = None
    hash_ids: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    session_id: str | int | None = None
    delay: Annotated[float, Meta(ge=0)] = 0.0


def read_mooncake(path: Path) -> Trace:
    """Read a whole trace, plain or gzip-compressed (told by content, not by name). Raises TraceError."""
    decoder = msgspec.json.Decoder(_Row)
    answered: dict[str, float] = {}
    """When the last answer of each session is taken to have ended."""

    def parse(_: int, line: bytes) -> Parsed:
        try:
            row = decoder.decode(line)
        except UNREADABLE as error:
            return str(error)
        expected = -(-row.input_length // BLOCK_SIZE)
        if row.hash_ids and len(row.hash_ids) != expected:
            return (
                f"hash_ids has {len(row.hash_ids)} entries, but input_length {row.input_length} makes {expected} "
                f"blocks of {BLOCK_SIZE}"
            )
        session = None if row.session_id is None else str(row.session_id)
        if row.timestamp is not None:
            arrival = row.timestamp / 1000
        elif session is not None and session in answered:
            arrival = answered[session] + row.delay / 1000
        else:
            return "has no timestamp, and no request of its session before it"
        if session is not None:
            answered[session] = arrival + assumed_answer_seconds(row.output_length)
        return TraceRequest(arrival, row.input_length, row.output_length, row.hash_ids, BLOCK_SIZE, session)

    return read_lines(path, parse, kind="a Mooncake request")
