"""Paceline's own traces: one JSON object a line, so that any load can be kept and simulated again.

``arrivalSeconds``, ``inputTokens`` and ``outputTokens`` are needed; ``blocks`` (one id for each started block of
``blockSize`` prompt tokens, equal ids for equal prefixes) and ``session`` may be left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.errors import ConfigError
from paceline.traces.record import Trace, TraceRequest
from paceline.traces.rows import MAX_TOKENS, Parsed, first_line, read_lines
from paceline.unreadable import UNREADABLE


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    arrival_seconds: Annotated[float, Meta(ge=0)]
    input_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    output_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    blocks: tuple[int, ...] = ()
    block_size: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 512
    session: str | None = None


class _Mark(msgspec.Struct, frozen=True, rename="camel"):
    arrival_seconds: float


def is_recording(path: Path) -> bool:
    """Whether the first row has the field that no other format has. Raises TraceError if there is nothing to read."""
    try:
        msgspec.json.decode(first_line(path), type=_Mark)
    except UNREADABLE:
        return False
    return True


def read_recording(path: Path) -> Trace:
    """Read a whole trace, plain or gzip-compressed. Raises TraceError."""
    decoder = msgspec.json.Decoder(_Row)

    def parse(_: int, line: bytes) -> Parsed:
        try:
            row = decoder.decode(line)
        except UNREADABLE as error:
            return str(error)
        expected = -(-row.input_tokens // row.block_size)
        if row.blocks and len(row.blocks) != expected:
            return (
                f"blocks has {len(row.blocks)} entries, but inputTokens {row.input_tokens} makes {expected} blocks of "
                f"{row.block_size}"
            )
        return TraceRequest(
            row.arrival_seconds, row.input_tokens, row.output_tokens, row.blocks, row.block_size, row.session
        )

    return read_lines(path, parse, kind="a Paceline recording")


def write_recording(trace: Trace, path: Path) -> None:
    """Write a trace so that :func:`read_recording` gives the same requests. Raises ConfigError if it can't."""
    encoder = msgspec.json.Encoder()
    try:
        with path.open("wb") as file:
            for one in trace.requests:
                row = _Row(
                    one.arrival_seconds, one.input_tokens, one.output_tokens, one.blocks, one.block_size, one.session
                )
                file.write(encoder.encode(row) + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: can't write the trace: {error.strerror}.") from None
