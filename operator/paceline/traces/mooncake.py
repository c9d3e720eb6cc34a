"""Reader of Mooncake traces: one JSON object a line with ``timestamp`` (ms), ``input_length``, ``output_length``,
``hash_ids``.

A hash id stands for 512 prompt tokens; equal ids are equal prefix blocks. The files are published with the FAST'25
paper on Mooncake. A bad row costs that row only: it is counted and named by its line number. Only a file that can't
be read at all, or that holds no good row, is a :class:`TraceError`.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.errors import TraceError
from paceline.traces.record import RowProblem, Trace, TraceRequest, in_order

BLOCK_SIZE: Final = 512
MAX_ROWS: Final = 5_000_000
"""A longer file is refused: the rows are held in memory."""
MAX_LINE_BYTES: Final = 1 << 20
"""Longest row read; an id for each of 10 million tokens fits well."""
MAX_PROBLEMS: Final = 20
"""Bad rows that are described. All are counted."""
_GZIP_MAGIC: Final = b"\x1f\x8b"


class _Row(msgspec.Struct, frozen=True):
    """A row as it is in the file. Fields that later versions of the format may add are ignored."""

    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Annotated[int, Meta(ge=1)]
    output_length: Annotated[int, Meta(ge=1)]
    hash_ids: tuple[Annotated[int, Meta(ge=0)], ...] = ()


def read_mooncake(path: Path) -> Trace:
    """Read a whole trace, plain or gzip-compressed (told by content, not by name).

    Raises :class:`TraceError` if the file is missing, unreadable, damaged, too long, or has no good row.
    """
    try:
        with _open(path) as lines:
            return _read(path, lines)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: can't read the trace: {reason}.") from None


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as probe:
        compressed = probe.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _read(path: Path, lines: gzip.GzipFile | io.BufferedReader) -> Trace:
    decoder = msgspec.json.Decoder(_Row)
    requests: list[TraceRequest] = []
    problems: list[RowProblem] = []
    malformed = 0
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number > MAX_ROWS:
            raise TraceError(f"{path}: more than {MAX_ROWS:,} rows; split the trace.")
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(
                f"{path}: line {number} is longer than {MAX_LINE_BYTES:,} bytes; this is not a Mooncake trace."
            )
        if not line.strip():
            continue
        parsed = _parse(decoder, line)
        if isinstance(parsed, TraceRequest):
            requests.append(parsed)
            continue
        malformed += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(RowProblem(number, parsed))
    if not requests:
        first = f" ({problems[0]})" if problems else ""
        raise TraceError(f"{path}: none of its {number} lines is a Mooncake request{first}.")
    return Trace(path.name, in_order(requests), malformed, tuple(problems))


def _parse(decoder: msgspec.json.Decoder[_Row], line: bytes) -> TraceRequest | str:
    """The request in a row, or what is wrong with the row."""
    try:
        row = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    expected = -(-row.input_length // BLOCK_SIZE)
    if row.hash_ids and len(row.hash_ids) != expected:
        return (
            f"hash_ids has {len(row.hash_ids)} entries, but input_length {row.input_length} makes {expected} "
            f"blocks of {BLOCK_SIZE}"
        )
    return TraceRequest(
        arrival_seconds=row.timestamp / 1000,
        input_tokens=row.input_length,
        output_tokens=row.output_length,
        blocks=row.hash_ids,
        block_size=BLOCK_SIZE,
    )
