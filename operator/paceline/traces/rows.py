"""Reading trace files line by line, the same way for every format: bounded, and honest about bad rows.

A bad row costs that row only: it is counted and named by its line number. Only a file that can't be read at all, or
that holds no good row, is a :class:`TraceError`. Called by the readers of single formats.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from paceline.errors import TraceError
from paceline.traces.record import RowProblem, Trace, TraceRequest, in_order

MAX_ROWS: Final = 5_000_000
"""A longer file is refused: the rows are held in memory."""
MAX_LINE_BYTES: Final = 4 << 20
"""Longest row read: token ids of a prompt of half a million tokens."""
MAX_PROBLEMS: Final = 20
"""Bad rows that are described. All are counted."""
MAX_TOKENS: Final = 100_000_000
"""A prompt or an output longer than this is a damaged number."""
_GZIP_MAGIC: Final = b"\x1f\x8b"

Parsed = TraceRequest | str
"""The request in a row, or what is wrong with it."""


def read_lines(path: Path, parse: Callable[[int, bytes], Parsed], *, kind: str) -> Trace:
    """Parse every line that isn't blank. ``parse`` gets the line's number, from 1. ``kind`` names the format.

    Raises TraceError.
    """
    return _collect(path, ((number, parse(number, line)) for number, line in _lines(path)), kind)


def read_csv(path: Path, columns: Sequence[str], parse: Callable[[Mapping[str, str]], Parsed], *, kind: str) -> Trace:
    """Parse every row of a CSV file with a header. ``parse`` gets the values of ``columns`` and of all others.

    Names of columns are compared without regard to case and outer blanks. Raises TraceError, also when a column is not
    there.
    """
    return _collect(path, _csv_rows(path, columns, parse, kind), kind)


def first_line(path: Path) -> bytes:
    """The first line that isn't blank; empty if there is none. Raises TraceError."""
    return next((line for _, line in _lines(path)), b"")


def tokens(value: str, name: str) -> int:
    """A number of tokens, at least 1. Raises ValueError that says what is wrong."""
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {value[:40]!r}") from None
    if not 1 <= number <= MAX_TOKENS:
        raise ValueError(f"{name} must be between 1 and {MAX_TOKENS:,}, not {number}")
    return number


def _csv_rows(
    path: Path, columns: Sequence[str], parse: Callable[[Mapping[str, str]], Parsed], kind: str
) -> Iterator[tuple[int, Parsed]]:
    names: list[str] | None = None
    for number, line in _lines(path):
        try:
            row = next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
        except (UnicodeDecodeError, csv.Error) as error:
            yield number, f"is not CSV: {error}"
            continue
        if names is None:
            names = [name.strip().lower() for name in row]
            if missing := [name for name in columns if name.lower() not in names]:
                raise TraceError(f"{path}: this is not {kind}: its header has no column {' or '.join(missing)}.")
        elif len(row) != len(names):
            yield number, f"has {len(row)} values, the header {len(names)}"
        else:
            try:
                yield number, parse(dict(zip(names, row, strict=True)))
            except ValueError as error:
                yield number, str(error)


def _collect(path: Path, rows: Iterable[tuple[int, Parsed]], kind: str) -> Trace:
    requests: list[TraceRequest] = []
    problems: list[RowProblem] = []
    malformed = 0
    for number, parsed in rows:
        if isinstance(parsed, TraceRequest):
            requests.append(parsed)
            continue
        malformed += 1
        if len(problems) < MAX_PROBLEMS:
            problems.append(RowProblem(number, parsed))
    if not requests:
        first = f" ({problems[0]})" if problems else ""
        raise TraceError(f"{path}: there is no request in it that is {kind}{first}. --trace-format names others.")
    ordered = in_order(requests)
    return Trace(path.name, ordered, malformed, tuple(problems))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every line that isn't blank."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number > MAX_ROWS:
                raise TraceError(f"{path}: more than {MAX_ROWS:,} rows; split the trace.")
            if len(line) > MAX_LINE_BYTES:
                raise TraceError(f"{path}: line {number} is longer than {MAX_LINE_BYTES:,} bytes; this is not a trace.")
            if line.strip():
                yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file, decompressed if it is gzip (told by content, not by name)."""
    try:
        with path.open("rb") as probe:
            compressed = probe.read(2) == _GZIP_MAGIC
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: can't read the trace: {reason}.") from None
