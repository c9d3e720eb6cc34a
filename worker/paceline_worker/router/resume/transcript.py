"""What a client has of one stream, kept small enough to keep it for every stream.

The relay hands every piece of the stream through :meth:`Transcript.take`. On the good path nothing is decoded: the ids
of the tokens and the text, both as the engine wrote them, are cut out of the bytes and kept, and ids that the client
did not ask for are left out of what it gets. What the kept bytes mean is only worked out when the engine breaks.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

EVENT_END: Final = b"\n\n"
DONE: Final = b"data: [DONE]\n\n"
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Of an event that has begun and not ended. The first one may carry the ids of the whole prompt."""

_IDS: Final = b'"token_ids":['
_PROMPT_IDS: Final = b'"prompt_token_ids":['
_TEXTS: Final = (b'"text":"', b'"content":"')
_PARSED: Final = (b'"reasoning":"', b'"reasoning_content":"', b'"tool_calls":[')
"""What an engine's parsers made of the tokens: another engine that starts in the middle would not."""
_FINISHED: Final = b'"finish_reason":"'
ERROR: Final = b'data: {"error"'
_NULL: Final = b"null"
_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*')


class _Fault(msgspec.Struct):
    message: str = "it gave no reason"
    code: int | str | None = None


class _ErrorEvent(msgspec.Struct):
    error: _Fault


_ERROR_EVENT: Final = msgspec.json.Decoder(_ErrorEvent)


class Transcript:
    """Of one stream with one choice. ``show_ids``: the client asked for token ids itself."""

    __slots__ = (
        "_ids",
        "_last",
        "_rest",
        "_show_ids",
        "_text",
        "done",
        "fault",
        "finished",
        "first",
        "parsed",
        "prompt_ids",
    )

    def __init__(self, *, show_ids: bool) -> None:
        self._show_ids = show_ids
        self._ids = bytearray()
        self._text = bytearray()
        self._rest = b""
        """An event that has begun."""
        self._last = b""
        """The last events that held a token."""
        self.first = b""
        """The first event, without the ids of its prompt: later ones repeat its head."""
        self.prompt_ids: bytes | None = None
        """Ids of the prompt, comma-separated; None while they are not known."""
        self.fault: str | None = None
        """What the engine says is wrong with itself, from an error in the middle of the stream."""
        self.finished = False
        """The event with the reason for the end was there."""
        self.done = False
        """The closing event was there."""
        self.parsed = False
        """The engine's parsers took part of the text for something else than content."""

    @property
    def begun(self) -> bool:
        """Whether the client has an event."""
        return bool(self.first)

    def take(self, piece: bytes) -> bytes:
        """One piece of the stream. Returns the whole events that the client is to see now."""
        if self._rest:
            piece = self._rest + piece
            self._rest = b""
        if not piece.endswith(EVENT_END):
            end = piece.rfind(EVENT_END) + len(EVENT_END) if EVENT_END in piece else 0
            self._rest, piece = piece[end:], piece[:end]
            if len(self._rest) > MAX_EVENT_BYTES:
                self.fault = f"an event is over {MAX_EVENT_BYTES} bytes"
            if not piece:
                return b""
        if ERROR in piece:
            piece = self._cut_at_error(piece)
        if not self.first:
            piece = self._begin(piece)
        if not self.parsed and any(mark in piece for mark in _PARSED):
            self.parsed = True
        if _FINISHED in piece:
            self.finished = True
        if piece.endswith(DONE):
            self.done = True
        return self._keep(piece)

    def lost(self) -> bytes:
        """Forget an event that had only begun: the engine that was writing it is gone. Returns what there was of it."""
        rest, self._rest = self._rest, b""
        return rest

    def add(self, ids: list[int], text: str) -> None:
        """Tokens that another engine said instead, and what the client got of them."""
        self._ids += b"".join(b",%d" % token for token in ids)
        self._text += msgspec.json.encode(text)[1:-1]
        self._last = b""

    def drop(self, tokens: int) -> None:
        """Forget that the last ``tokens`` were there: they will be said again."""
        kept = self.ids[: len(self.ids) - tokens]
        self._ids = bytearray(b"".join(b",%d" % token for token in kept))
        self._last = b""

    @property
    def ids(self) -> list[int]:
        """Ids of the tokens that came."""
        return [] if not self._ids else msgspec.json.decode(b"[%b]" % bytes(self._ids[1:]), type=list[int])

    @property
    def tokens(self) -> int:
        """How many came."""
        return self._ids.count(b",")

    @property
    def text(self) -> str:
        """What the client has of the answer."""
        return msgspec.json.decode(b'"%b"' % bytes(self._text), type=str)

    @property
    def settled(self) -> bool:
        """Whether the text surely is that of the tokens: the last event held one token, and text of it."""
        at = self._last.rfind(_IDS)
        if at < 0:
            return False
        ids = self._last[at + len(_IDS) : self._last.index(b"]", at)]
        begin = self._last.rfind(b"data: ", 0, at)
        end = self._last.find(EVENT_END, at)
        event = self._last[begin:end]
        return b"," not in ids and any(mark in event and mark + b'"' not in event for mark in _TEXTS)

    # --- the good path

    def _keep(self, events: bytes) -> bytes:
        for mark in _TEXTS:
            at = events.find(mark)
            while at >= 0:
                at += len(mark)
                end = events.find(b'"', at)
                if events.find(b"\\", at, end) >= 0:
                    found = _STRING.match(events, at)
                    end = at if found is None else found.end()
                self._text += events[at:end]
                at = events.find(mark, end)
        at = events.find(_IDS)
        if at < 0:
            return events
        self._last = events
        shown: list[bytes] = []
        seen = 0
        while at >= 0:
            at += len(_IDS)
            end = events.find(b"]", at)
            if end > at:
                self._ids += b"," + events[at:end]
            shown += (events[seen : at - 1], _NULL)
            seen = end + 1
            at = events.find(_IDS, seen)
        if self._show_ids:
            return events
        shown.append(events[seen:])
        return b"".join(shown)

    # --- rare

    def _begin(self, piece: bytes) -> bytes:
        """The first events: they carry the ids of the prompt."""
        at = piece.find(_PROMPT_IDS)
        if at >= 0:
            begin = at + len(_PROMPT_IDS)
            end = piece.find(b"]", begin)
            self.prompt_ids = piece[begin:end]
            if not self._show_ids:
                piece = piece[: begin - 1] + _NULL + piece[end + 1 :]
        self.first = piece[: piece.find(EVENT_END) + len(EVENT_END)]
        return piece

    def _cut_at_error(self, piece: bytes) -> bytes:
        """Events before an error; the error is kept in :attr:`fault` unless it is the client's, which it then gets."""
        at = piece.find(ERROR)
        event = piece[at + len(b"data: ") : piece.find(EVENT_END, at)]
        try:
            error = _ERROR_EVENT.decode(event).error
        except msgspec.DecodeError:
            error = _Fault()
        if isinstance(error.code, int) and 400 <= error.code < 500:
            return piece
        self.fault = error.message
        return piece[:at]
