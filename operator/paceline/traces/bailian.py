"""Reader of the Qwen-Bailian traces: one JSON object a line with ``timestamp`` (s), ``input_length``,
``output_length``, ``hash_ids`` (one for each 16 prompt tokens), ``chat_id`` and ``parent_chat_id``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.traces.record import Trace, TraceRequest
from paceline.traces.rows import MAX_TOKENS, Parsed, read_lines
from paceline.unreadable import UNREADABLE

BLOCK_SIZE: Final = 16


class _Row(msgspec.Struct, frozen=True):
    """A row as it is in the file. Other fields are ignored."""

    timestamp: Annotated[float, Meta(ge=0)]
    input_length: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    output_length: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    hash_ids: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    chat_id: int | None = None
    parent_chat_id: int = -1


def read_bailian(path: Path) -> Trace:
    """Read a whole trace. A session is named by its first chat in the file. Raises TraceError."""
    decoder = msgspec.json.Decoder(_Row)
    sessions: dict[int, str] = {}

    def parse(number: int, line: bytes) -> Parsed:
        try:
            row = decoder.decode(line)
        except UNREADABLE as error:
            return str(error)
        blocks = row.hash_ids
        full, partial = divmod(row.input_length, BLOCK_SIZE)
        if partial and len(blocks) == full:
            # The block that is not full has no hash; nobody shares it.
            blocks = (*blocks, -number)
        if blocks and len(blocks) != full + bool(partial):
            return (
                f"hash_ids has {len(row.hash_ids)} entries, but input_length {row.input_length} makes "
                f"{full + bool(partial)} blocks of {BLOCK_SIZE}"
            )
        session = None
        if row.chat_id is not None:
            session = sessions.get(row.parent_chat_id, str(row.chat_id))
            sessions[row.chat_id] = session
        return TraceRequest(row.timestamp, row.input_length, row.output_length, blocks, BLOCK_SIZE, session)

    return read_lines(path, parse, kind="a Qwen-Bailian request")
