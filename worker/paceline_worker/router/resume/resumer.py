"""Goes on with a stream whose engine broke, on another engine, until it is whole."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from paceline.clock import Clock
from paceline_worker.http.client import Exchange, Pool
from paceline_worker.http.errors import UpstreamClosed, UpstreamError, UpstreamGarbage
from paceline_worker.http.message import Response
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine
from paceline_worker.router.gate import Gate, Place
from paceline_worker.router.hints import Explain
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Matcher, Prepared
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.parse import Call
from paceline_worker.router.resume.continuation import FIRST_IN_LINE, TARGET, Continuation, Differs
from paceline_worker.router.resume.transcript import ERROR, EVENT_END, MAX_EVENT_BYTES, Transcript

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 4
"""Engines in a row that fail a stream without another token of it."""
MAX_UNSETTLED: Final = 64
"""Tokens at the end of which the text may still be held back for a stop string."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Opener(Protocol):
    """Sends a placed request on its way."""

    async def open(self, incoming: Incoming, prepared: Prepared, place: Place) -> Exchange:
        """The head of the answer is there. Raises UpstreamError."""
        ...

    def unwell(self, engine: Engine, error: Exception) -> None:
        """The engine failed."""
        ...


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
        self, opener: Opener, gate: Gate, matcher: Matcher, pool: Pool, metrics: Metrics, clock: Clock,
        max_model_len: int | None,
    ) -> None:  # fmt: skip
        self._opener = opener
        self._gate = gate
        self._matcher = matcher
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._max_model_len = max_model_len

    async def go_on(self, incoming: Incoming, transcript: Transcript, engine: Engine, response: Response) -> str | None:
        """Say the rest of a stream that ``engine`` began. Returns why that was not possible, else None."""
        transcript.lost()
        if transcript.opaque is not None:
            return self._given_up("inexact", transcript.opaque)
        if transcript.prompt_ids is None and not transcript.finished:
            return self._given_up("inexact", "the engine did not tell the tokens of its stream")
        story = Continuation(incoming.call, transcript)
        broke, failures, failed, why = self._clock.monotonic(), 0, {engine.name}, ""
        while failures < MAX_FAILURES:
            had = transcript.tokens
            try:
                await self._once(incoming, story, failed, response, broke)
            except (UpstreamError, Differs, msgspec.DecodeError) as error:
                failures = 1 if transcript.tokens > had else failures + 1
                why = str(error)
                log.info("request %s goes on elsewhere again: %s", incoming.name, why)
            except Inexact as error:
                return self._given_up("inexact", str(error))
            except ApiError as error:
                return self._given_up("failed", str(error))
            else:
                self._metrics.resumes.add("ok")
                return None
        return self._given_up("failed", f"{MAX_FAILURES} engines failed to go on, the last one because {why}")

    def _given_up(self, outcome: str, why: str) -> str:
        self._metrics.resumes.add(outcome)
        return why

    async def _once(
        self, incoming: Incoming, story: Continuation, failed: set[str], response: Response, broke: float
    ) -> None:
        """One engine's try. Adds it to ``failed`` first, and takes it out when it did its part."""
        prompt_ids = story.transcript.prompt_ids or b"0"
        rest = story.rest(prompt_ids, self._max_model_len)
        if rest is None and not (story.asks_for_length() and self._max_model_len is None):
            response.write(story.close() if story.transcript.finished else story.cut_short())
            response.end()
            return
        hints = replace(
            incoming.hints, priority=FIRST_IN_LINE, expected_output_tokens=None, prefetch=False, explain=Explain.NO
        )
        prepared = await self._matcher.prepare(rest or incoming.call, hints)
        for name in failed:
            prepared.avoid(name)
        place = await self._gate.place(prepared, begun=True)
        engine = place.decode
        try:
            failed.add(engine.name)
            length = self._max_model_len
            if length is None and story.asks_for_length():
                length = await self._model_length(engine)
            if story.holds_back():
                await self._settle_by_text(story, engine)
            elif not story.transcript.settled:
                await self._settle(story, engine)
            rest = story.rest(prompt_ids, length)
            if rest is None:
                response.write(story.cut_short())
                response.end()
                return
            exchange = await self._opener.open(_asking(incoming, rest), prepared, place)
            try:
                await self._relay(exchange, story, place, response, broke)
            finally:
                exchange.close()
        except UpstreamError as error:
            self._opener.unwell(engine, error)
            raise
        finally:
            place.release()
        engine.health.request_succeeded()
        response.end()

    async def _relay(
        self, exchange: Exchange, story: Continuation, place: Place, response: Response, broke: float
    ) -> None:
        if exchange.status != 200:
            body = await exchange.read(MAX_ANSWER_BYTES)
            raise UpstreamGarbage(
                f"{place.decode.name} answered {exchange.status}: {body[:200].decode('utf-8', 'replace')}"
            )
        rest = b""
        first = True
        trouble: Differs | msgspec.DecodeError | None = None

        def take(piece: bytes) -> None:
            nonlocal rest, first, trouble
            *events, rest = (rest + piece).split(EVENT_END)
            if len(rest) > MAX_EVENT_BYTES:
                exchange.reject(UpstreamGarbage(f"an event is over {MAX_EVENT_BYTES} bytes"))
            for event in events:
                if event.startswith(ERROR):
                    exchange.reject(UpstreamGarbage(event[:200].decode("utf-8", "replace")))
                    return
                try:
                    data = story.say(event + EVENT_END)
                except (Differs, msgspec.DecodeError) as error:
                    trouble = error
                    exchange.reject(UpstreamGarbage(str(error)))
                    return
                if first:
                    first = False
                    place.prompt_done()
                    self._metrics.resume_gap.observe(self._clock.monotonic() - broke)
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
            raise UpstreamGarbage(f"{engine.name} answered {exchange.status}: {body[:200].decode('utf-8', 'replace')}")
        return body


def _asking(incoming: Incoming, rest: Call) -> Incoming:
    return msgspec.structs.replace(incoming, call=rest, target=TARGET)
