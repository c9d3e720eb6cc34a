"""What a client has of one stream, kept small enough to keep it for every stream.

The relay hands every piece of the stream through :meth:`Transcript.take`. Events go on as the bytes they came in; only
ids that the client did not ask for are cut out of them. The events of one stream are alike but for their text and ids:
after the first one has been decoded, those that have its bytes around text and id are known by them.
"""

from __future__ import annotations

import re
from array import array
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from paceline.unreadable import UNREADABLE

EVENT_END: Final = b"\n\n"
DONE: Final = b"data: [DONE]\n\n"
ERROR: Final = b'data: {"error"'
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Of an event that has begun and not ended. The first one may carry the ids of the whole prompt."""
MAX_ID: Final = 2**32 - 1
"""Of a token."""
MAX_ID_DIGITS: Final = len(str(MAX_ID))

_IDS: Final = b'"token_ids":['
_PROMPT_IDS: Final = b'"prompt_token_ids":['
_NULL: Final = b"null"
_JSON: Final = b"data: {"
_MARK: Final = len(b"data: ")
_CLOSING: Final = DONE.removesuffix(EVENT_END)
_WITHOUT_DATA: Final = (b":", b"event:", b"id:", b"retry:")
"""What else an event may begin with."""
_NOTHING: Final = msgspec.Raw(_NULL)
_TEXT: Final = re.compile(rb'"(?:text|content)":"([^"\\]*(?:\\.[^"\\]*)*)"')


class _Fault(msgspec.Struct):
    message: str = "it gave no reason"
    code: int | str | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[Annotated[int, Meta(ge=0, le=MAX_ID)]] | None = None
    prompt_token_ids: msgspec.Raw = _NOTHING


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    prompt_token_ids: msgspec.Raw = _NOTHING
    error: _Fault | None = None


_EVENT: Final = msgspec.json.Decoder(_Event)


class Transcript:
    """Of one stream with one choice. ``show_ids``: the client asked for token ids itself."""

    __slots__ = (
        "_after", "_before", "_between", "_ids", "_rest", "_show_ids", "_sure", "_text", "begun_at", "done", "fault",
        "finish_reason", "finished", "first", "opaque", "prompt_ids", "settled",
    )  # fmt: skip

    def __init__(self, *, show_ids: bool) -> None:
        self._show_ids = show_ids
        self._ids = array("Q")
        self._text = bytearray()
        """As it stands in JSON, to be decoded when somebody asks."""
        self._before = self._between = self._after = b""
        """Bytes of an event around its text and its one id; empty before there was one."""
        self._rest = b""
        """An event that has begun."""
        self.first = b""
        """The first event, without the ids of its prompt: later ones repeat its head."""
        self.begun_at: float | None = None
        """When the client got its first byte, by the clock."""
        self.prompt_ids: bytes | None = None
        """Ids of the prompt, comma-separated; None while they are not known."""
        self.fault: str | None = None
        """What the engine says is wrong with itself, from an error in the middle of the stream."""
        self.finished = False
        """The event with the reason for the end was there."""
        self.finish_reason: str | None = None
        self.done = False
        """The closing event was there."""
        self.opaque: str | None = None
        """Why the tokens don't say what the client has."""
        self.settled = False
        """The last token came alone and with text, so text and tokens end together, unless text is held back."""
        self._sure = (0, 0)
        """Tokens and bytes of text that ended together when that was last so."""

    @property
    def tokens(self) -> int:
        """How many came."""
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """Ids of the tokens that came."""
        return self._ids.tolist()

    @property
    def text(self) -> str:
        """What the client has of the answer."""
        return _decoded(self._text)

    def last_ids(self, most: int) -> array[int]:
        """The last ``most`` ids that came."""
        return self._ids[-most:]

    def last_text(self, most: int) -> bytes:
        """The last ``most`` bytes of the text, as they stand in JSON."""
        return bytes(self._text[-most:])

    def take(self, piece: bytes) -> bytes:
        """One piece of the stream. Returns the whole events that the client is to see now."""
        if self._rest:
            piece = self._rest + piece
            self._rest = b""
        if piece.startswith(self._before) and piece.endswith(self._after) and self._before:
            text, found, token = piece[len(self._before) : -len(self._after)].partition(self._between)
            # A quotation mark may be the end of the text, and what looks like one event may be two: those are decoded.
            if found and text and token.isdigit() and len(token) <= MAX_ID_DIGITS and b'"' not in text:
                self._ids.append(int(token))
                self._text += text
                self.settled = True
                if self._show_ids:
                    return piece
                return b"".join((piece[: len(self._before) + len(text)], self._between[:-1], _NULL, self._after[1:]))
        *events, self._rest = piece.split(EVENT_END)
        if len(self._rest) > MAX_EVENT_BYTES:
            self.fault = f"an event is over {MAX_EVENT_BYTES} bytes"
        shown = []
        for event in events:
            shown.append(self._event(event + EVENT_END))
            if self.fault is not None:
                break
        return b"".join(shown)

    def lost(self) -> bytes:
        """Forget an event that had only begun: the engine that was writing it is gone. Returns what there was of it."""
        rest, self._rest = self._rest, b""
        return rest

    def add(self, ids: list[int], text: str) -> None:
        """Tokens that came, and what the client got of them."""
        if self.settled:
            self._sure = (len(self._ids), len(self._text))
        self._ids.extend(ids)
        self._text += msgspec.json.encode(text)[1:-1]
        self.settled = len(ids) == 1 and bool(text)

    def unsure(self) -> tuple[list[int], str]:
        """What came since text and tokens last ended together: ids, and what the client has of their text."""
        tokens, size = self._sure
        return self._ids[tokens:].tolist(), _decoded(self._text[size:])

    def drop(self, tokens: int) -> None:
        """Forget that the last ``tokens`` were there: they will be said again."""
        if tokens:
            del self._ids[-tokens:]

    def _event(self, event: bytes) -> bytes:
        """One event; what the client sees of it."""
        if not event.startswith(_JSON):
            if event.startswith(_CLOSING):
                self.done = True
            elif not event.startswith(_WITHOUT_DATA):
                return self._garbled()
            return event
        try:
            told = _EVENT.decode(memoryview(event)[_MARK:])
        except msgspec.ValidationError:
            self.opaque = "the engine's events are not those of OpenAI's API"
            return event
        except UNREADABLE:
            return self._garbled()
        if told.error is not None and not _is_the_client_s(told.error):
            self.fault = told.error.message
            return b""
        for choice in told.choices:
            self._note(choice)
        if not self.first:
            event = self._begin(event, told)
        if _IDS not in event:
            return event
        at = event.index(_IDS) + len(_IDS)
        end = event.index(b"]", at)
        text = _TEXT.search(event)
        if self.settled and not self.finished and self.opaque is None and text is not None and text.end() < at:
            self._before, self._between, self._after = event[: text.start(1)], event[text.end(1) : at], event[end:]
        return event if self._show_ids else event[: at - 1] + _NULL + event[end + 1 :]

    def _garbled(self) -> bytes:
        """Of something that is no event the client sees nothing: another engine says what should have been there."""
        self.fault = "something that is no event"
        return b""

    def _note(self, choice: _Choice) -> None:
        text, delta = choice.text, choice.delta
        if delta is not None:
            text = delta.content
            if delta.reasoning or delta.reasoning_content or delta.tool_calls:
                self.opaque = "the engine parses reasoning or tool calls out of the text"
        if choice.token_ids or text:
            self.add(choice.token_ids or [], text or "")
        if choice.finish_reason is not None:
            self.finished, self.finish_reason = True, choice.finish_reason

    def _begin(self, event: bytes, told: _Event) -> bytes:
        """The first event: it carries the ids of the prompt."""
        for raw in (told.prompt_token_ids, *(choice.prompt_token_ids for choice in told.choices)):
            content = bytes(raw)
            if content.startswith(b"["):
                self.prompt_ids = content[1:-1]
        if not self._show_ids and _PROMPT_IDS in event:
            at = event.index(_PROMPT_IDS) + len(_PROMPT_IDS) - 1
            event = event[:at] + _NULL + event[event.index(b"]", at) + 1 :]
        self.first = event
        return event


def _is_the_client_s(error: _Fault) -> bool:
    return isinstance(error.code, int) and 400 <= error.code < 500


def _decoded(text: bytearray) -> str:
    try:
        return msgspec.json.decode(b'"%b"' % bytes(text), type=str)
    except UNREADABLE:  # an escape that is none: the client has it as it is
        return bytes(text).decode("utf-8", "replace")
