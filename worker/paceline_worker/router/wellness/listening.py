"""Listens to answers on their way, at next to no cost: what was kept of a stream anyway is looked at once in
:data:`LOOK_EVERY` events and at its end. The flow makes one :class:`Listener` for each stream, the relay calls it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from paceline.clock import Clock
from paceline.policy.health.output import Answer, OutputHealth, Part
from paceline.policy.health.pace import LEAST_TOKENS, Pace
from paceline.policy.health.scripts import unescaped
from paceline.policy.health.signs import (
    LEAST_ALIKE,
    LEAST_TAIL,
    SAMPLE_CHARACTERS,
    TAIL,
    Sign,
    foreign,
    repetition,
    source_of,
    tokens_of_text,
)
from paceline.policy.routing.fleet import EngineModel
from paceline.unreadable import UNREADABLE
from paceline_worker.router.fleet import Engine
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.places import Place
from paceline_worker.router.resume.transcript import EVENT_END, Transcript

LOOK_EVERY: Final = 64
"""Events of a stream between two looks at it."""
KEPT_PIECES: Final = LEAST_TAIL
"""Of streams whose tokens nobody keeps. Within such a stream they are compared as they are, which misses what repeats
with other log-probabilities each time; at its end their text is.
"""
LONGEST_PIECE: Final = 2048
"""Bytes; larger ones are several events, or hold log-probabilities, and are not kept."""
LONGEST_BODY: Final = 1024 * 1024
"""Of an answer that is no stream; what is longer is not looked at."""
SAMPLE_BYTES: Final = 4 * SAMPLE_CHARACTERS
WORD: Final = 4
"""Characters that stand for a token of an answer whose tokens nobody told."""
CUT_FOR_REPETITION: Final = "repetition"
"""vLLM's reason for ending an answer that repeats itself."""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        told = self.delta or self.message
        if told is None:
            return self.text or ""
        return told.content or told.reasoning or told.reasoning_content or ""


class _Answer(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class Sample(msgspec.Struct, frozen=True, rename="camel"):
    """The end of an answer that bore a sign."""

    at: float
    """Seconds since the epoch."""
    engine: str
    request: str
    sign: Sign
    text: str


class Listening:
    """What all listeners share."""

    def __init__(
        self, health: OutputHealth, pace: Pace, model: EngineModel, clock: Clock, *, hears: bool, keep_samples: int
    ) -> None:
        self._hears = hears
        """False where nobody wants to know."""
        self.health = health
        self.pace = pace
        self.model = model
        self.clock = clock
        self.answers = 0
        """That were looked at."""
        self.signs = dict.fromkeys((Sign.ONE_TOKEN, Sign.REPETITION, Sign.SCRIPT), 0)
        """Answers by what was seen in them."""
        self.samples: deque[Sample] = deque(maxlen=keep_samples)

    def to(self, incoming: Incoming, place: Place, transcript: Transcript | None) -> Listener | None:
        """For a stream that begins."""
        return Listener(self, incoming, place, transcript) if self._hears else None

    def whole(self, incoming: Incoming, place: Place, body: bytes, tokens: int) -> None:
        """An answer that was no stream."""
        if not self._hears or len(body) > LONGEST_BODY or tokens < LEAST_ALIKE:
            return
        try:
            choices = _ANSWER.decode(body).choices
        except UNREADABLE:
            return
        if not choices:
            return
        text = choices[0].said
        tail = text[-TAIL * WORD :]
        words = [tail[at : at + WORD] for at in range(len(tail) % WORD, len(tail), WORD)]
        ending = text[-SAMPLE_CHARACTERS:].encode("utf-8", "replace")
        sign = _sign(tokens_of_text(words), ending, incoming, choices[0].finish_reason)
        self.note(incoming, place, sign, tokens, ending)

    def note(self, incoming: Incoming, place: Place, sign: Sign | None, tokens: int | None, ending: bytes) -> None:
        """One answer, for the engine that gave it and the one that computed its prompt. ``ending``: of its text."""
        engine = place.decode
        self.answers += 1
        if sign is not None:
            self.signs[sign] += 1
            if self.samples.maxlen:
                text = unescaped(ending)[-SAMPLE_CHARACTERS:]
                self.samples.append(Sample(self.clock.wall(), engine.name, incoming.name, sign, text))
        source = source_of(_prompt(incoming), incoming.hints.session)
        signs = frozenset() if sign is None else frozenset((sign,))
        answer = Answer(self.clock.monotonic(), signs, tokens, source)
        self.health.note(engine.identity, Part.ANSWERED, answer)
        if place.prefill is not None:
            self.health.note(place.prefill.identity, Part.PREFILLED, answer)


class Listener:
    """Of one stream, until its engine is done or breaks: what another one adds later follows from what was there."""

    __slots__ = ("_expected", "_incoming", "_pieces", "_place", "_shared", "_told", "_transcript")

    def __init__(self, shared: Listening, incoming: Incoming, place: Place, transcript: Transcript | None) -> None:
        self._shared = shared
        self._incoming = incoming
        self._place = place
        self._transcript = transcript
        self._pieces: deque[bytes] | None = None
        if transcript is None and incoming.call.single:
            self._pieces = deque(maxlen=KEPT_PIECES)
        self._told = False
        """Whether its engine has been told of already."""
        self._expected = self._step_seconds()

    def keep(self, piece: bytes) -> None:
        """A piece of a stream without a transcript."""
        if self._pieces is not None and len(piece) <= LONGEST_PIECE:
            self._pieces.append(piece)

    @property
    def keeps(self) -> bool:
        """Whether it wants every piece."""
        return self._pieces is not None

    def look(self, events: int) -> int:
        """So many events went by. An answer that is unwell may never end: its engine is told of now. Returns after how
        many it wants to look again.
        """
        if not self._told:
            transcript = self._transcript
            ids = tokens_of_text(self._pieces or ()) if transcript is None else transcript.last_ids(TAIL)
            sign = repetition(ids)
            if sign is not None:
                self._told = True
                self._shared.note(self._incoming, self._place, sign, None, self._ending()[1])
        return events + LOOK_EVERY

    def end(self, tokens: int, *, whole: bool, gap_seconds: float | None) -> None:
        """The stream is over; ``whole``: as its engine meant it. ``gap_seconds``: mean time between its tokens."""
        if gap_seconds is not None and tokens >= LEAST_TOKENS:
            engine: Engine = self._place.decode
            expected = (self._expected + self._step_seconds()) / 2
            self._shared.pace.note(
                engine.identity, engine.endpoint.pool, self._shared.clock.monotonic(),
                gap_seconds=gap_seconds, expected_seconds=expected,
            )  # fmt: skip
        if self._told or tokens < LEAST_ALIKE:
            return
        ids, ending = self._ending()
        if not ids:
            return
        reason = None if self._transcript is None else self._transcript.finish_reason
        sign = _sign(ids, ending, self._incoming, reason)
        if whole or sign is not None:
            self._shared.note(self._incoming, self._place, sign, tokens if whole else None, ending)

    def _ending(self) -> tuple[Sequence[int], bytes]:
        """Its last tokens, and the end of its text, as it may stand in JSON."""
        if self._transcript is not None:
            return self._transcript.last_ids(TAIL), self._transcript.last_text(SAMPLE_BYTES)
        texts = _texts(self._pieces or ())
        return tokens_of_text(texts), "".join(texts).encode("utf-8", "replace")[-SAMPLE_BYTES:]

    def _step_seconds(self) -> float:
        view = self._place.decode.view(asyncio.get_running_loop().time())
        return self._shared.model.step_seconds(max(1, view.running), view.context_tokens)


def _sign(tokens: Sequence[int], ending: bytes, incoming: Incoming, reason: str | None) -> Sign | None:
    sign = repetition(tokens)
    if sign is None and reason == CUT_FOR_REPETITION:
        return Sign.REPETITION
    if sign is None and (not ending.isascii() or b"\\u" in ending):
        prompt = _prompt(incoming)
        # Of token ids nobody knows the script.
        if not prompt[1:].lstrip()[:1].isdigit():
            return foreign(unescaped(ending), prompt)
    return sign


def _prompt(incoming: Incoming) -> bytes:
    fields = incoming.call.fields
    raw = fields.get("messages", fields.get("prompt"))
    return b"" if raw is None else bytes(raw)


def _texts(pieces: Sequence[bytes]) -> list[str]:
    """What each event says. One that is cut between two pieces is passed over."""
    texts = []
    for piece in pieces:
        for event in piece.split(EVENT_END):
            if event.startswith(b"data: {"):
                try:
                    choices = _ANSWER.decode(event[len(b"data: ") :]).choices
                except UNREADABLE:
                    continue
                if choices and choices[0].said:
                    texts.append(choices[0].said)
    return texts
