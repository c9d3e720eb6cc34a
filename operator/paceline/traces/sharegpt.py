"""Reader of ShareGPT sessions with token ids, as LLMServingSim publishes them: one JSON object a line with
``input_toks``, ``output_toks``, ``arrival_time_ns`` and ``input_tok_ids``.

Prefix blocks are found by comparing the token ids themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.traces.record import Trace, TraceRequest
from paceline.traces.rows import MAX_TOKENS, Parsed, read_lines
from paceline.unreadable import UNREADABLE

BLOCK_SIZE: Final = 64
"""Of our choosing: the files know no blocks."""


class _Row(msgspec.Struct, frozen=True):
    """A row as it is in the file. Other fields, the output's token ids among them, are ignored."""

    input_toks: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    output_toks: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    arrival_time_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    input_tok_ids: tuple[Annotated[int, Meta(ge=0)], ...] = ()


def read_sharegpt(path: Path) -> Trace:
    """Read a whole trace. Raises TraceError."""
    decoder = msgspec.json.Decoder(_Row)
    names: dict[tuple[int, tuple[int, ...]], int] = {}

    def parse(_: int, line: bytes) -> Parsed:
        try:
            row = decoder.decode(line)
        except UNREADABLE as error:
            return str(error)
        ids = row.input_tok_ids
        if ids and len(ids) != row.input_toks:
            return f"input_tok_ids has {len(ids)} entries, but input_toks is {row.input_toks}"
        blocks = []
        parent = -1
        for start in range(0, len(ids), BLOCK_SIZE):
            # Named with all that comes before, so that equal ids are equal prefixes.
            parent = names.setdefault((parent, ids[start : start + BLOCK_SIZE]), len(names))
            blocks.append(parent)
        return TraceRequest(row.arrival_time_ns / 1e9, row.input_toks, row.output_toks, tuple(blocks), BLOCK_SIZE)

    return read_lines(path, parse, kind="a ShareGPT request with token ids")
