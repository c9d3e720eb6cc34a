"""The way of one generation request: place, prefill remotely, decode, and hand the answer on as it comes.

What goes wrong on the prefill side costs time only: the decode engine computes the prompt itself. What goes wrong on
the decode side before the client has seen a byte is tried again elsewhere, within a budget. Afterwards another engine
goes on from the tokens that were sent; where that would show, the client gets an error event. KV blocks that a prefill
engine holds for a decode that never came are released by its own timeout.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from paceline.clock import Clock
from paceline.policy.routing.fleet import EngineModel
from paceline.policy.routing.placement import Prefill
from paceline.policy.routing.retries import RetryBudget
from paceline_worker.http.client import Exchange, Pool
from paceline_worker.http.errors import UpstreamClosed, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from paceline_worker.http.headers import JSON, Headers, end_to_end
from paceline_worker.http.message import Response
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.gate import Gate, Place
from paceline_worker.router.hints import Explain
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Matcher, Prepared
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.outcomes import Outcomes
from paceline_worker.router.resume.exactness import obstacle
from paceline_worker.router.resume.resumer import Resumer
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.slo import SloCounts
from paceline_worker.router.stream import StreamRelay

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""Engines that one request may be sent to."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is not a stream. Log-probabilities of long outputs take megabytes."""
MAX_PREFILL_ANSWER_BYTES: Final = 4 * 1024 * 1024
LEAST_PREFILL_SECONDS: Final = 30.0
"""A remote prefill is given at least this long, and PREFILL_PATIENCE times what the engine model expects."""
PREFILL_PATIENCE: Final = 5.0
PLACEMENT: Final = b"x-paceline-placement"
"""Header of an answer whose client asked how it was placed."""
MOST_IN_HEADER: Final = 8
"""Engines; a header may have some thousand bytes."""
MOST_EXPLAINED: Final = 4096
"""Engines in an explanation without an answer."""
RETRIED_STATUSES: Final = frozenset({500, 502, 503, 504})
"""The engine could not serve the request; another may."""
UNWELL_STATUSES: Final = frozenset({502, 503, 504})
"""Count against the engine's health. 500 doesn't: a request that breaks engines must not empty the fleet."""


class _Prefilled(msgspec.Struct):
    """What matters of a prefill engine's answer."""

    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_PREFILLED: Final = msgspec.json.Decoder(_Prefilled)


class _Failed(Exception):
    """The engine did not answer this request, and the client has seen nothing yet."""

    def __init__(self, engine: Engine, error: ApiError, *, reason: str) -> None:
        super().__init__(str(error))
        self.engine = engine
        self.error = error
        self.reason = reason


class _Broken(Exception):
    """The engine failed in the middle of a stream."""

    def __init__(self, engine: Engine, error: ApiError, transcript: Transcript | None) -> None:
        super().__init__(str(error))
        self.engine = engine
        self.error = error
        self.transcript = transcript


class Flow:
    """Runs requests. One object for the whole process; all state of a request is on its stack."""

    def __init__(
        self,
        fleet: Fleet,
        gate: Gate,
        matcher: Matcher,
        pool: Pool,
        metrics: Metrics,
        outcomes: Outcomes,
        slo: SloCounts,
        model: EngineModel,
        clock: Clock,
        max_model_len: int | None,
    ) -> None:
        self._fleet = fleet
        self._outcomes = outcomes
        self._slo = slo
        self._gate = gate
        self._matcher = matcher
        self._model = model
        self._pool = pool
        self._metrics = metrics
        self._budget = RetryBudget()
        self._clock = clock
        self._resumer = Resumer(self, gate, matcher, pool, metrics, clock, max_model_len)

    async def run(self, incoming: Incoming, response: Response) -> None:
        """Answer one request. Raises ApiError while nothing has been sent."""
        prepared = await self._matcher.prepare(incoming.call, incoming.hints)
        self._note_arrival(incoming, prepared)
        if incoming.hints.explain is Explain.ONLY:
            self._gate.decide(prepared)
            response.send(200, self._explanation(prepared, MOST_EXPLAINED), (JSON, incoming.request_id))
            return
        if incoming.hints.prefetch:
            await self._prefetch(incoming, prepared, response)
            return
        self._budget.earn()
        attempt = 0
        while True:
            attempt += 1
            place = await incoming.trace.during("queue", self._gate.place(prepared))
            incoming.visit.placed()
            try:
                attempted = self._attempt(incoming, prepared, place, response)
                await incoming.trace.during("answer", attempted, engine=place.decode.name)
            except _Failed as failure:
                if attempt >= MAX_ATTEMPTS or not self._budget.spend():
                    raise failure.error from None
                self._metrics.retries.add(failure.reason)
                log.info("request %s goes elsewhere: %s", incoming.name, failure)
                self._matcher.failed(prepared, failure.engine)
                prepared.avoid(failure.engine.name)
            except _Broken as broken:
                place.release()  # before it asks for another
                await self._go_on(incoming, broken, response)
                self._judge(incoming, broken.transcript)
                return
            else:
                return
            finally:
                place.release()

    async def open(self, incoming: Incoming, prepared: Prepared, place: Place, *, ids: bool = True) -> Exchange:
        """Have the prompt computed, and ask the engine that answers. ``ids``: for the ids of its tokens too.

        Returns once the head of its answer is there. Raises UpstreamError.
        """
        engine, prefill = place.decode, place.prefill
        self._matcher.computing(prepared, prefill or engine, place.placement.prefill_seconds)
        kv_transfer_params = await self._prefill(incoming, place)
        if prefill is not None and kv_transfer_params is None:
            self._matcher.failed(prepared, prefill)
            self._matcher.computing(prepared, engine, place.placement.prefill_seconds)
        body = incoming.call.body(kv_transfer_params, ids=ids)
        return await self._pool.open(engine.address, incoming.payload(engine, body))

    async def _go_on(self, incoming: Incoming, broken: _Broken, response: Response) -> None:
        """What was sent stays valid: another engine says the rest, or an event says why there is none."""
        why = obstacle(incoming.call)
        if broken.transcript is not None:
            log.info("request %s goes on elsewhere: %s", incoming.name, broken)
            why = await self._resumer.go_on(incoming, broken.transcript, broken.engine, response)
        if why is not None:
            error = ApiError(broken.error.status, f"{broken.error} No other engine could go on: {why}.")
            response.write(b"\n\n" + error.event())
            response.end()
            raise BrokenStream(str(error)) from None

    def _judge(self, incoming: Incoming, transcript: Transcript | None) -> None:
        """A stream that went on elsewhere has ended well. The pause in it counts like any time between tokens."""
        if transcript is None or transcript.begun_at is None:
            return
        gaps = transcript.tokens - 1
        itl = (self._clock.monotonic() - transcript.begun_at) / gaps if gaps > 0 else None
        waited = transcript.begun_at - incoming.arrived
        self._slo.streamed(incoming.request_class, ttft_seconds=waited, itl_seconds=itl)

    async def _attempt(self, incoming: Incoming, prepared: Prepared, place: Place, response: Response) -> None:
        engine, transcript = place.decode, None
        if incoming.call.stream and obstacle(incoming.call) is None:
            transcript = Transcript(show_ids=incoming.call.shows_ids)
            incoming.visit.follow(transcript)
        try:
            exchange = await self.open(incoming, prepared, place, ids=transcript is not None)
            try:
                await self._answer(incoming, prepared, place, exchange, response, transcript)
            finally:
                exchange.close()
        except UpstreamError as error:
            self.unwell(engine, error)
            status = 504 if isinstance(error, UpstreamTimeout) else 502
            failed = ApiError(status, f"Engine {engine.name} failed: {error}.")
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
        headers = [*_passed_on(exchange.headers), incoming.request_id]
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

            relay = StreamRelay(exchange, response, headers, self._clock, begun, transcript)
            try:
                await relay.run()
            finally:
                self._observe(relay, incoming)
                incoming.visit.said(relay.tokens)
            self._outcomes.ended(ttft_met=in_time, itl=relay.mean_gap())
            if relay.first_at is not None:
                waited = relay.first_at - incoming.arrived
                self._slo.streamed(incoming.request_class, ttft_seconds=waited, itl_seconds=relay.mean_gap())
            self._outcomes.answered(prepared.base.prompt_tokens, relay.tokens)
            engine.health.request_succeeded()
            return
        body = await exchange.read(MAX_ANSWER_BYTES)
        if status in RETRIED_STATUSES:
            error = ApiError(status, f"Engine {engine.name} answered {status}: {_excerpt(body)}")
            if status in UNWELL_STATUSES:
                self.unwell(engine, error)
            raise _Failed(engine, error, reason=f"status-{status}")
        if not _looks_like_json(body):
            error = ApiError(502, f"Engine {engine.name} answered {status} with something that is not JSON.")
            self.unwell(engine, error)
            raise _Failed(engine, error, reason="garbage")
        engine.health.request_succeeded()
        if status == 200:
            said = self._outcomes.answered_whole(prepared.base.prompt_tokens, body)
            incoming.visit.said(said)
            self._slo.answered(incoming.request_class)
            self._matcher.answering(prepared, engine, place.prefill)
        response.send(status, body, headers)

    # --- prefill

    async def _prefill(self, incoming: Incoming, place: Place) -> msgspec.Raw | None:
        """Have the prompt computed elsewhere; None when the decode engine has to do it. Never fails the request."""
        engine = place.prefill
        self._metrics.placements.add(place.placement.reason.value)
        if engine is None:
            if place.placement.reason is not Prefill.NOT_DISAGGREGATED:
                self._metrics.remote_prefill.add("skipped")
            return None
        try:
            asked = self._ask_prefill(incoming, engine, place.placement.prefill_seconds)
            params = await incoming.trace.during("prefill", asked, engine=engine.name)
        except (UpstreamError, TimeoutError, msgspec.DecodeError) as error:
            if isinstance(error, UpstreamError):
                self.unwell(engine, error)
            log.info("prefill on %s failed, %s computes the prompt: %s", engine.name, place.decode.name, error)
            params = None
        finally:
            place.prefill_done()
        self._metrics.remote_prefill.add("failed" if params is None else "ok")
        return params

    async def _ask_prefill(self, incoming: Incoming, engine: Engine, expected_seconds: float) -> msgspec.Raw | None:
        payload = incoming.payload(engine, incoming.call.prefill_body())
        patience = max(LEAST_PREFILL_SECONDS, PREFILL_PATIENCE * expected_seconds)
        async with asyncio.timeout(patience) as deadline:
            engine.prefill_deadlines.add(deadline)
            try:
                exchange = await self._pool.open(engine.address, payload)
                try:
                    body = await exchange.read(MAX_PREFILL_ANSWER_BYTES)
                finally:
                    exchange.close()
            finally:
                engine.prefill_deadlines.discard(deadline)
        if exchange.status != 200:
            log.info("prefill on %s answered %d: %s", engine.name, exchange.status, _excerpt(body))
            return None
        engine.health.request_succeeded()
        params = _PREFILLED.decode(body).kv_transfer_params
        return params if bytes(params).startswith(b"{") else None

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
            self.unwell(engine, error)
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
        return msgspec.json.encode(prepared.explain(self._gate.settings, self._model, most=most))

    # --- bookkeeping

    def _note_arrival(self, incoming: Incoming, prepared: Prepared) -> None:
        """Raises OverLimit for a tenant that has used its tokens: that is no demand that engines should meet."""
        prompt, held = prepared.base.prompt_tokens, 0
        if prepared.prompt is not None:
            prompt = prepared.peek().prompt_tokens
            held = min(prompt, max((known.tokens for known in prepared.known.values()), default=0))
        output = 0 if incoming.hints.prefetch else prepared.base.output_tokens
        incoming.visit.expect(cached=held, uncached=prompt - held, output=output)
        if prepared.prompt is not None:
            self._metrics.cached_tokens.observe(held)
            self._metrics.uncached_tokens.observe(prompt - held)

    def unwell(self, engine: Engine, error: Exception) -> None:
        """The engine failed a request. A connection that it closed while nobody used it says nothing about it."""
        if isinstance(error, UpstreamClosed) and error.stale:
            return
        if engine.health.failed(refused=isinstance(error, UpstreamUnreachable)):
            log.warning("engine %s gets no more work: %s", engine.name, error)
            self._fleet.health_changed(engine)

    def _observe(self, relay: StreamRelay, incoming: Incoming) -> None:
        if relay.first_at is not None:
            ttft = relay.first_at - incoming.arrived
            self._metrics.ttft.observe(ttft, incoming.trace.exemplar(ttft, self._clock.wall()))
            latency = relay.mean_gap()
            if latency is not None:
                self._metrics.itl.observe(latency)


class BrokenStream(Exception):
    """The stream ended with an error event."""


def _passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [pair for pair in end_to_end(headers) if pair[0] not in (b"x-request-id", b"date", b"server")]


def _looks_like_json(body: bytes) -> bool:
    """The outermost brackets only: cheap, and enough to tell an engine's answer from a stray page."""
    stripped = body.strip()
    return (stripped[:1], stripped[-1:]) in ((b"{", b"}"), (b"[", b"]"))


def _excerpt(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")
