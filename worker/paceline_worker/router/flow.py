"""The way of one generation request: place it, have its answer opened, and hand that on as it comes.

What goes wrong before the client has seen a byte is tried again elsewhere, within a budget. Afterwards another engine
goes on from the tokens that were sent; where that would show, the client gets an error event. KV blocks that a prefill
engine holds for a decode that never came are released by its own timeout.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from paceline.clock import Clock
from paceline.policy.routing.fleet import EngineModel
from paceline.policy.routing.retries import RetryBudget
from paceline_worker.http.client import Exchange, Pool
from paceline_worker.http.errors import UpstreamError, UpstreamTimeout
from paceline_worker.http.headers import JSON
from paceline_worker.http.message import Response
from paceline_worker.router.answers import excerpt, looks_like_json, passed_on
from paceline_worker.router.counting import Counting
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine
from paceline_worker.router.gate import Gate
from paceline_worker.router.hints import Explain
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Matcher, Prepared
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.opening import MAX_PREFILL_ANSWER_BYTES, RETRIED_STATUSES, UNWELL_STATUSES, Opening
from paceline_worker.router.outcomes import Outcomes
from paceline_worker.router.places import Place
from paceline_worker.router.resume.exactness import obstacle
from paceline_worker.router.resume.resumer import Resumer
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.slo import SloCounts
from paceline_worker.router.stream import StreamRelay
from paceline_worker.router.wellness.listening import Listening
from paceline_worker.router.yielding import Guest, Interrupted

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""Engines that one request may be sent to."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is not a stream. Log-probabilities of long outputs take megabytes."""
PLACEMENT: Final = b"x-paceline-placement"
"""Header of an answer whose client asked how it was placed."""
MOST_IN_HEADER: Final = 8
"""Engines; a header may have some thousand bytes."""
MOST_EXPLAINED: Final = 4096
"""Engines in an explanation without an answer."""


class _Failed(Exception):
    """The engine did not answer this request, and the client has seen nothing yet."""

    def __init__(self, engine: Engine, error: ApiError, *, reason: str) -> None:
        super().__init__(error.plain)
        self.engine = engine
        self.error = error
        self.reason = reason


class _Broken(Exception):
    """The engine failed in the middle of a stream."""

    def __init__(self, engine: Engine, error: ApiError, transcript: Transcript | None) -> None:
        super().__init__(error.plain)
        self.engine = engine
        self.error = error
        self.transcript = transcript


class Flow:
    """Runs requests. One object for the whole process; all state of a request is on its stack."""

    def __init__(
        self,
        opening: Opening,
        gate: Gate,
        matcher: Matcher,
        pool: Pool,
        metrics: Metrics,
        outcomes: Outcomes,
        slo: SloCounts,
        model: EngineModel,
        clock: Clock,
        max_model_len: int | None,
        listening: Listening,
    ) -> None:
        self._opening = opening
        self._listening = listening
        self._outcomes = outcomes
        self._slo = slo
        self._gate = gate
        self._guests = gate.guests
        self._matcher = matcher
        self._model = model
        self._pool = pool
        self._metrics = metrics
        self._counting = Counting(metrics, outcomes, slo, clock)
        self._budget = RetryBudget()
        self._clock = clock
        self._resumer = Resumer(opening, gate, matcher, pool, metrics, clock, max_model_len)

    async def run(self, incoming: Incoming, response: Response) -> None:
        """Answer one request. Raises ApiError while nothing has been sent."""
        prepared = await self._matcher.prepare(incoming.call, incoming.hints)
        self._counting.arrived(incoming, prepared)
        if incoming.hints.explain is Explain.ONLY:
            self._gate.decide(prepared)
            response.send(200, self._explanation(prepared, MOST_EXPLAINED), (JSON, incoming.request_id))
            return
        if incoming.hints.prefetch:
            await self._prefetch(incoming, prepared, response)
            return
        self._budget.earn()
        self._opening.arrived()
        prepared.guest = self._guests.invite(incoming.call, prepared.priority, prepared.base.prompt_tokens, response)
        try:
            await self._serve(incoming, prepared, response)
        finally:
            self._guests.over(prepared.guest)

    async def _serve(self, incoming: Incoming, prepared: Prepared, response: Response) -> None:
        failures = 0
        while True:
            place = await incoming.trace.during("queue", self._gate.place(prepared))
            incoming.visit.placed()
            try:
                attempted = self._attempt(incoming, prepared, place, response)
                await incoming.trace.during("answer", attempted, engine=place.decode.name)
            except _Failed as failure:
                failures += 1
                if failures >= MAX_ATTEMPTS or not self._budget.spend():
                    raise failure.error from None
                self._metrics.retries.add(failure.reason)
                log.info("request %s goes elsewhere: %s", incoming.name, failure)
                self._matcher.failed(prepared, failure.engine)
                prepared.avoid(failure.engine.name)
            except Interrupted:  # nothing was sent of it: it is placed again, and that is no try that failed
                log.info("request %s gives way before its first token", incoming.name)
            except _Broken as broken:
                place.release()  # before it asks for another
                await self._go_on(incoming, prepared.guest, broken, response)
                self._counting.went_on(incoming, prepared, broken.transcript)
                return
            else:
                return
            finally:
                place.release()

    async def _go_on(self, incoming: Incoming, guest: Guest | None, broken: _Broken, response: Response) -> None:
        """What was sent stays valid: another engine says the rest, or an event says why there is none."""
        why = obstacle(incoming.call)
        if broken.transcript is not None:
            log.info("request %s goes on elsewhere: %s", incoming.name, broken)
            why = await self._resumer.go_on(incoming, guest, broken.transcript, broken.engine, response)
        if why is not None:
            error = ApiError(broken.error.status, f"{broken.error} No other engine could go on: {why}.")
            response.write(b"\n\n" + error.event())
            response.end()
            raise BrokenStream(f"{broken.error.plain} No other engine could go on.") from None

    async def _attempt(self, incoming: Incoming, prepared: Prepared, place: Place, response: Response) -> None:
        transcript = None
        if incoming.call.stream and obstacle(incoming.call) is None:
            transcript = Transcript(show_ids=incoming.call.shows_ids)
            incoming.visit.follow(transcript)
        if prepared.guest is not None:
            prepared.guest.transcript = transcript
        try:
            exchange = await self._opening.open(incoming, prepared, place, ids=transcript is not None, hedged=True)
            try:
                await self._answer(incoming, prepared, place, exchange, response, transcript)
            finally:
                exchange.close()
        except Interrupted as error:
            if prepared.guest is not None:
                self._guests.pause(prepared.guest)
            if not response.started:
                raise
            raise _Broken(place.decode, ApiError(502, f"{error}."), transcript) from None
        except UpstreamError as error:
            engine = place.decode
            self._opening.unwell(engine, error)
            status = 504 if isinstance(error, UpstreamTimeout) else 502
            plain = f"Engine {engine.name} failed: {error.plain}."
            failed = ApiError(status, f"Engine {engine.name} failed: {error}.", plain=plain)
            if response.started:
                raise _Broken(engine, failed, transcript) from None
            raise _Failed(engine, failed, reason=type(error).__name__) from None

    async def _answer(
        self,
        incoming: Incoming,
        prepared: Prepared,
        place: Place,
        exchange: Exchange,
        response: Response,
        transcript: Transcript | None,
    ) -> None:
        engine, status = place.decode, exchange.status
        headers = [*passed_on(exchange.headers), incoming.request_id]
        if prepared.decision is not None:
            headers.append((PLACEMENT, self._explanation(prepared, MOST_IN_HEADER)))
        if status == 200 and incoming.call.stream:
            in_time = False

            def begun() -> None:
                nonlocal in_time
                now = self._clock.monotonic()
                in_time = self._outcomes.begun(now - incoming.arrived, prepared.base.ttft_seconds)
                if transcript is not None:
                    transcript.begun_at = now
                place.prompt_done()
                self._matcher.answering(prepared, engine, place.prefill)
                if prepared.guest is not None:
                    self._guests.begun(prepared.guest, in_time=in_time)

            heard = self._listening.to(incoming, place, transcript)
            relay = StreamRelay(exchange, response, headers, self._clock, begun, transcript, heard)
            try:
                with self._guests.hosted(prepared.guest, engine.name, exchange):
                    await relay.run()
            finally:
                self._counting.streamed(incoming, relay)
                incoming.visit.said(relay.tokens)
            self._outcomes.ended(ttft_met=in_time, itl=relay.mean_gap())
            self._gate.seats.streamed(engine, relay.mean_gap())
            if relay.first_at is not None:
                waited = relay.first_at - incoming.arrived
                self._slo.streamed(incoming.request_class, ttft_seconds=waited, itl_seconds=relay.mean_gap())
            self._outcomes.answered(prepared.base.prompt_tokens, relay.tokens)
            engine.health.request_succeeded()
            return
        body = await exchange.read(MAX_ANSWER_BYTES)
        if status in RETRIED_STATUSES:
            plain = f"Engine {engine.name} answered {status}."
            error = ApiError(status, f"{plain[:-1]}: {excerpt(body)}", plain=plain)
            if status in UNWELL_STATUSES:
                self._opening.unwell(engine, error)
            raise _Failed(engine, error, reason=f"status-{status}")
        if not looks_like_json(body):
            error = ApiError(502, f"Engine {engine.name} answered {status} with something that is not JSON.")
            self._opening.unwell(engine, error)
            raise _Failed(engine, error, reason="garbage")
        engine.health.request_succeeded()
        if status == 200:
            said = self._outcomes.answered_whole(prepared.base.prompt_tokens, body)
            incoming.visit.said(said)
            self._listening.whole(incoming, place, body, said)
            self._slo.answered(incoming.request_class)
            self._matcher.answering(prepared, engine, place.prefill)
        response.send(status, body, headers)

    # --- without an answer

    async def _prefetch(self, incoming: Incoming, prepared: Prepared, response: Response) -> None:
        """Compute the prompt where it would be computed, so that a later request finds it; never at others' cost."""
        place = self._gate.try_place(prepared)
        if place is None:
            answer = {"prefetched": False, "reason": "other requests are served first"}
            response.send(200, msgspec.json.encode(answer), (JSON, incoming.request_id))
            return
        incoming.visit.placed()
        engine = place.prefill or place.decode
        try:
            self._matcher.computing(prepared, engine, place.placement.prefill_seconds)
            exchange = await self._pool.open(
                engine.address, incoming.payload(engine, incoming.call.prefill_body(hold=False))
            )
            try:
                body = await exchange.read(MAX_PREFILL_ANSWER_BYTES)
            finally:
                exchange.close()
        except UpstreamError as error:
            self._opening.unwell(engine, error)
            raise ApiError(502, f"Engine {engine.name} failed: {error}.") from None
        finally:
            place.release()
        if exchange.status != 200:
            response.send(exchange.status, body, (JSON, incoming.request_id))
            return
        held = prepared.known.get(engine.name)
        answer = {
            "prefetched": True,
            "engine": engine.name,
            "promptTokens": prepared.base.prompt_tokens,
            "heldTokens": 0 if held is None else held.tokens,
        }
        response.send(200, msgspec.json.encode(answer), (JSON, incoming.request_id))

    def _explanation(self, prepared: Prepared, most: int) -> bytes:
        return msgspec.json.encode(prepared.explain(self._gate.seats.settings, self._model, most=most))


class BrokenStream(Exception):
    """The stream ended with an error event."""
