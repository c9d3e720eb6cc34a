"""Goes on with a stream whose engine broke, or that gave way to others, until it is whole."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

import msgspec

from paceline.clock import Clock
from paceline.unreadable import UNREADABLE
from paceline_worker.http.client import Exchange, Pool
from paceline_worker.http.errors import UpstreamClosed, UpstreamError, UpstreamGarbage
from paceline_worker.http.message import Response
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine
from paceline_worker.router.gate import Gate
from paceline_worker.router.hints import Explain
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Matcher, Prepared, own_priority
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.opening import Opening
from paceline_worker.router.parse import Call
from paceline_worker.router.places import Place
from paceline_worker.router.resume.continuation import TARGET, Continuation, Differs
from paceline_worker.router.resume.exactness import holds_back
from paceline_worker.router.resume.transcript import ERROR, EVENT_END, MAX_EVENT_BYTES, Transcript
from paceline_worker.router.yielding import FAILED, Guest, Interrupted

log = logging.getLogger(__name__)

FIRST_IN_LINE: Final = 1_000
"""Priority of a broken stream in the router's queue: above all that clients can ask for, as somebody is waiting for the
next word."""
MAX_FAILURES: Final = 4
"""Engines in a row that fail a stream without another token of it."""
MAX_UNSETTLED: Final = 64
"""Tokens at the end of which the text may still be held back for a stop string."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class _Course:
    """How it stands with going on with one stream."""

    __slots__ = ("avoided", "broke_at", "ever_broke", "guest", "story")

    def __init__(self, story: Continuation, guest: Guest | None, broke_at: float | None, avoided: set[str]) -> None:
        self.story = story
        self.guest = guest
        """None for a stream that is never interrupted."""
        self.broke_at = broke_at
        """When its engine broke; None while nothing but its turn is missing."""
        self.ever_broke = broke_at is not None
        self.avoided = avoided
        """Engines that failed it."""

    def broken(self, now: float) -> None:
        """Its engine broke, unless it had broken before and none went on since."""
        self.ever_broke = True
        if self.broke_at is None:
            self.broke_at = now


class Inexact(Exception):
    """Another engine can't go on without the client noticing."""


class _Text(msgspec.Struct):
    prompt: str


class _Model(msgspec.Struct):
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


_TEXT: Final = msgspec.json.Decoder(_Text)
_MODELS: Final = msgspec.json.Decoder(_Models)


class Resumer:
    """One object for the process; all state of a stream is on the stack and in its transcript."""

    def __init__(
        self, opening: Opening, gate: Gate, matcher: Matcher, pool: Pool, metrics: Metrics, clock: Clock,
        max_model_len: int | None,
    ) -> None:  # fmt: skip
        self._opening = opening
        self._gate = gate
        self._guests = gate.guests
        self._matcher = matcher
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._max_model_len = max_model_len

    async def go_on(
        self, incoming: Incoming, guest: Guest | None, transcript: Transcript, engine: Engine, response: Response
    ) -> str | None:
        """Say the rest of a stream that ``engine`` began, and broke unless the stream is paused. Returns why that was
        not possible, else None.
        """
        transcript.lost()
        story = Continuation(incoming.call, transcript)
        if guest is not None and guest.paused:
            course = _Course(story, guest, None, set())
        else:
            course = _Course(story, guest, self._clock.monotonic(), {engine.name})
        if transcript.opaque is not None:
            return self._given_up(course, "inexact", transcript.opaque)
        if transcript.prompt_ids is None and not transcript.finished:
            return self._given_up(course, "inexact", "the engine did not tell the tokens of its stream")
        failures, why = 0, ""
        while failures < MAX_FAILURES:
            had = transcript.tokens
            try:
                await self._once(incoming, course, response)
            except Interrupted:
                failures = 0
                if guest is not None:
                    self._guests.pause(guest)
                log.info("request %s gives way again", incoming.name)
            except (UpstreamError, Differs, *UNREADABLE) as error:
                failures = 1 if transcript.tokens > had else failures + 1
                course.broken(self._clock.monotonic())
                why = str(error)
                plain = error.plain if isinstance(error, UpstreamError) else type(error).__name__
                log.info("request %s goes on elsewhere again: %s", incoming.name, plain)
            except Inexact as error:
                return self._given_up(course, "inexact", str(error))
            except ApiError as error:
                return self._given_up(course, "failed", str(error))
            else:
                if course.ever_broke:
                    self._metrics.resumes.add("ok")
                return None
        return self._given_up(course, "failed", f"{MAX_FAILURES} engines failed to go on, the last one because {why}")

    def _given_up(self, course: _Course, outcome: str, why: str) -> str:
        self._guests.over(course.guest, FAILED)
        if course.ever_broke:
            self._metrics.resumes.add(outcome)
        return why

    async def _once(self, incoming: Incoming, course: _Course, response: Response) -> None:
        """One engine's try. An engine that does not do its part is avoided from then on."""
        story = course.story
        prompt_ids = story.transcript.prompt_ids or b"0"
        rest = story.rest(prompt_ids, self._max_model_len)
        if rest is None and not (story.asks_for_length() and self._max_model_len is None):
            self._close(course, response)
            return
        place = await self._gate.place(prepared := await self._prepare(incoming, course, rest))
        engine = place.decode
        course.avoided.add(engine.name)
        try:
            length = self._max_model_len
            if length is None and story.asks_for_length():
                length = await self._model_length(engine)
            if holds_back(incoming.call):
                await self._settle_by_text(story, engine)
            elif not story.transcript.settled:
                await self._settle(story, engine)
            rest = story.rest(prompt_ids, length)
            if rest is None:
                self._close(course, response)
                return
            exchange = await self._opening.open(_asking(incoming, rest), prepared, place)
            try:
                with self._guests.hosted(course.guest, engine.name, exchange):
                    await self._relay(exchange, course, place, response)
            finally:
                exchange.close()
        except Interrupted:
            course.avoided.discard(engine.name)
            raise
        except UpstreamError as error:
            self._opening.unwell(engine, error)
            raise
        finally:
            place.release()
        engine.health.request_succeeded()
        response.end()

    async def _prepare(self, incoming: Incoming, course: _Course, rest: Call | None) -> Prepared:
        """Of a broken stream the rest goes before all others; one that gave way has the priority that it had."""
        hints = replace(incoming.hints, expected_output_tokens=None, prefetch=False, explain=Explain.NO)
        guest = course.guest
        if course.broke_at is not None:
            hints, guest = replace(hints, priority=FIRST_IN_LINE), None
        prepared = await self._matcher.prepare(rest or incoming.call, hints)
        prepared.begun, prepared.guest = True, guest
        prepared.claims = own_priority(incoming.call, incoming.hints) >= 0
        for name in course.avoided:
            prepared.avoid(name)
        return prepared

    def _close(self, course: _Course, response: Response) -> None:
        """End a stream of which nothing is left to be computed."""
        story = course.story
        if course.guest is not None:
            self._guests.resumed(course.guest)
        response.write(story.close() if story.transcript.finished else story.cut_short())
        response.end()

    def _going_on(self, course: _Course) -> None:
        """Something of it has come."""
        if course.broke_at is not None:
            self._metrics.resume_gap.observe(self._clock.monotonic() - course.broke_at)
            course.broke_at = None
        if course.guest is not None:
            self._guests.resumed(course.guest)

    async def _relay(self, exchange: Exchange, course: _Course, place: Place, response: Response) -> None:
        story = course.story
        if exchange.status != 200:
            body = await exchange.read(MAX_ANSWER_BYTES)
            plain = f"{place.decode.name} answered {exchange.status}"
            raise UpstreamGarbage(f"{plain}: {body[:200].decode('utf-8', 'replace')}", plain=plain)
        rest = b""
        first = True
        trouble: Exception | None = None

        def take(piece: bytes) -> None:
            nonlocal rest, first, trouble
            *events, rest = (rest + piece).split(EVENT_END)
            if len(rest) > MAX_EVENT_BYTES:
                exchange.reject(UpstreamGarbage(f"an event is over {MAX_EVENT_BYTES} bytes"))
            for event in events:
                if event.startswith(ERROR):
                    exchange.reject(UpstreamGarbage(event[:200].decode("utf-8", "replace"), plain="it says so"))
                    return
                try:
                    data = story.say(event + EVENT_END)
                except (Differs, *UNREADABLE) as error:
                    trouble = error
                    exchange.reject(UpstreamGarbage(str(error), plain="it says something else"))
                    return
                if first:
                    first = False
                    place.prompt_done()
                    self._going_on(course)
                response.write(data)

        response.on_backpressure(exchange.pause, exchange.resume)
        try:
            await exchange.relay(take)
        except UpstreamError:
            if trouble is not None:
                raise trouble from None
            raise
        if not story.transcript.done:
            raise UpstreamClosed(f"{place.decode.name} ended its stream in the middle")

    async def _settle(self, story: Continuation, engine: Engine) -> None:
        """Where several tokens came at a time, or none of their text: an engine holds back half a character. If the
        last token is one, go back to where text and tokens surely ended together; what came since must come again.
        """
        ids, text = story.transcript.unsure()
        if story.overlap or (await self._text(engine, ids)).endswith(REPLACEMENT):
            story.transcript.drop(len(ids))
            story.overlap = text

    async def _settle_by_text(self, story: Continuation, engine: Engine) -> None:
        """With stop strings: go back to the last token whose text the client has, by what the tokens say."""
        transcript = story.transcript
        ids, text = transcript.ids, transcript.text
        for kept in range(len(ids), max(0, len(ids) - MAX_UNSETTLED) - 1, -1):
            said = await self._text(engine, ids[:kept]) if kept else ""
            if text[:1] == " " and said[:1] not in ("", " "):
                said = " " + said  # some tokenizers drop the space that a text begins with
            if text.startswith(said) and not said.endswith(REPLACEMENT):
                transcript.drop(len(ids) - kept)
                story.overlap = text[len(said) :]
                return
        raise Inexact("what was sent of its text does not follow from its tokens")

    async def _text(self, engine: Engine, ids: list[int]) -> str:
        body = msgspec.json.encode({"tokens": ids})
        head = b"POST /detokenize HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return _TEXT.decode(await self._ask(engine, head % (engine.host_header, len(body)) + body)).prompt

    async def _model_length(self, engine: Engine) -> int:
        page = await self._ask(engine, b"GET /v1/models HTTP/1.1\r\nhost: %b\r\n\r\n" % engine.host_header)
        length = next((model.max_model_len for model in _MODELS.decode(page).data), None)
        if length is None:
            raise Inexact("the engine does not say how long its context is")
        return length

    async def _ask(self, engine: Engine, payload: bytes) -> bytes:
        exchange = await self._pool.open(engine.address, payload)
        try:
            body = await exchange.read(MAX_ANSWER_BYTES)
        finally:
            exchange.close()
        if exchange.status != 200:
            plain = f"{engine.name} answered {exchange.status}"
            raise UpstreamGarbage(f"{plain}: {body[:200].decode('utf-8', 'replace')}", plain=plain)
        return body


def _asking(incoming: Incoming, rest: Call) -> Incoming:
    return msgspec.structs.replace(incoming, call=rest, target=TARGET)
