"""From a placed request to the head of its answer: the prompt computed elsewhere where that is so, and then the engine
that answers.

What goes wrong on the prefill side costs time only: the decode engine computes the prompt itself. Called by the flow,
and by the resumer for the rest of a stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from paceline.policy.routing.placement import Prefill
from paceline.unreadable import UNREADABLE
from paceline_worker.http.client import Exchange, Pool
from paceline_worker.http.errors import UpstreamClosed, UpstreamError, UpstreamUnreachable
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.hedging import Hedging, Stage
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.matcher import Matcher, Prepared
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.places import Place

log = logging.getLogger(__name__)

MAX_PREFILL_ANSWER_BYTES: Final = 4 * 1024 * 1024
LEAST_PREFILL_SECONDS: Final = 30.0
"""A remote prefill is given at least this long, and PREFILL_PATIENCE times what the engine model expects."""
PREFILL_PATIENCE: Final = 5.0
RETRIED_STATUSES: Final = frozenset({500, 502, 503, 504})
"""The engine could not serve the request; another may."""
UNWELL_STATUSES: Final = frozenset({502, 503, 504})
"""Count against the engine's health. 500 doesn't: a request that breaks engines must not empty the fleet."""


class _Prefilled(msgspec.Struct):
    """What matters of a prefill engine's answer."""

    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_PREFILLED: Final = msgspec.json.Decoder(_Prefilled)


class Opening:
    """One object for the process; all state of a request is on its stack."""

    def __init__(self, fleet: Fleet, matcher: Matcher, pool: Pool, metrics: Metrics, hedging: Hedging | None) -> None:
        self._fleet = fleet
        self._matcher = matcher
        self._pool = pool
        self._metrics = metrics
        self._hedging = hedging

    def arrived(self) -> None:
        """A request has come that may be asked of two engines."""
        if self._hedging is not None:
            self._hedging.arrived()

    async def open(
        self, incoming: Incoming, prepared: Prepared, place: Place, *, ids: bool = True, hedged: bool = False
    ) -> Exchange:
        """Have the prompt computed, and ask the engine that answers. ``ids``: for the ids of its tokens too.
        ``hedged``: where one is late another may be asked too; ``place`` is then that of the engine that answers.

        Returns once the head of its answer is there. Raises UpstreamError.
        """
        hedging = self._hedging if hedged and prepared.priority >= 0 else None
        remote, reason = place.prefill is not None, place.placement.reason
        self._metrics.placements.add(reason.value)
        params = await self._prompt(incoming, prepared, place, hedging)
        if remote:
            self._metrics.remote_prefill.add("failed" if params is None else "ok")
        elif reason is not Prefill.NOT_DISAGGREGATED:
            self._metrics.remote_prefill.add("skipped")
        if hedging is None:
            return await self._ask(incoming, place.decode, params, ids=ids)
        return await self._ask_two(hedging, incoming, prepared, place, params, ids=ids)

    def unwell(self, engine: Engine, error: UpstreamError | ApiError) -> None:
        """The engine failed a request. A connection that it closed while nobody used it says nothing about it."""
        if isinstance(error, UpstreamClosed) and error.stale:
            return
        if engine.health.failed(refused=isinstance(error, UpstreamUnreachable)):
            log.warning("engine %s gets no more work: %s", engine.name, error.plain)
            self._fleet.health_changed(engine)

    # --- the answer

    async def _ask(
        self, incoming: Incoming, engine: Engine, params: msgspec.Raw | None, *, ids: bool, begun: bool = False
    ) -> Exchange:
        """``begun``: the head of a stream is not enough, because engines send it before they have done anything."""
        body = incoming.call.body(params, ids=ids)
        exchange = await self._pool.open(engine.address, incoming.payload(engine, body))
        if begun and exchange.status == 200 and incoming.call.stream:
            ready = False
            try:
                await exchange.ready()
                ready = True
            finally:
                if not ready:
                    exchange.close()
        return exchange

    async def _ask_two(
        self,
        hedging: Hedging,
        incoming: Incoming,
        prepared: Prepared,
        place: Place,
        params: msgspec.Raw | None,
        *,
        ids: bool,
    ) -> Exchange:
        """The second goes all the way, its prompt too: KV blocks of the first one's prefill are for it alone."""
        asked, trace = place.decode, incoming.trace.branch()
        elsewhere = prepared.elsewhere(asked.name)
        other: Place | None = None

        def second() -> Coroutine[Any, Any, Exchange] | None:
            nonlocal other
            other = hedging.place(Stage.DECODE, elsewhere, lambda found: found.decode is not asked)
            return None if other is None else go(other, msgspec.structs.replace(incoming, trace=trace))

        async def go(other: Place, again: Incoming) -> Exchange:
            params = await self._prompt(again, elsewhere, other, None)
            return await self._ask(again, other.decode, params, ids=ids, begun=True)

        def dropped(is_second: bool, outcome: Exchange | UpstreamError | None) -> None:
            if isinstance(outcome, Exchange):
                outcome.close()
            if other is None:
                return
            loser = other.decode if is_second else asked
            if outcome is not None and not (isinstance(outcome, Exchange) and _answers(outcome)):
                self._failed_meanwhile(prepared, loser, outcome)
            self._matcher.failed(prepared, loser)
            if is_second:
                other.release()
            else:
                if outcome is not None:
                    place.leave_decode()
                place.take_over(other)
                prepared.decision = elsewhere.decision

        if incoming.call.stream:
            expected = 0.0 if params is not None else place.placement.prefill_seconds
        else:
            expected = place.placement.decode_seconds  # nothing comes before the whole
        first = self._ask(incoming, asked, params, ids=ids, begun=True)
        exchange = await hedging.race(Stage.DECODE, expected, first, second, _answers, dropped)
        if place.decode is not asked:
            incoming.trace.tell(engine=place.decode.name)
        return exchange

    def _failed_meanwhile(self, prepared: Prepared, engine: Engine, how: Exchange | UpstreamError) -> None:
        """One of two engines failed, and the other goes on."""
        prepared.avoid(engine.name)
        if isinstance(how, UpstreamError):
            self.unwell(engine, how)
        elif how.status in UNWELL_STATUSES:
            self.unwell(engine, ApiError(how.status, f"Engine {engine.name} answered {how.status}."))

    # --- prefill

    async def _prompt(
        self, incoming: Incoming, prepared: Prepared, place: Place, hedging: Hedging | None
    ) -> msgspec.Raw | None:
        """Have the prompt computed elsewhere; None when the decode engine has to do it. Never fails the request."""
        params = None
        if place.prefill is not None and hedging is not None:
            params = await self._prefill_two(hedging, incoming, prepared, place, place.prefill)
        elif place.prefill is not None:
            params = await self._prefill(incoming, prepared, place, place.prefill)
        if params is None:
            self._matcher.computing(prepared, place.decode, place.placement.prefill_seconds)
        return params

    async def _prefill_two(
        self, hedging: Hedging, incoming: Incoming, prepared: Prepared, place: Place, asked: Engine
    ) -> msgspec.Raw | None:
        """Blocks that the one which is not needed had just computed are released by its own timeout."""
        decode, trace = place.decode, incoming.trace.branch()
        elsewhere = prepared.elsewhere(asked.name)
        other: Place | None = None

        def fits(found: Place) -> bool:
            engine = found.prefill
            return engine not in (None, decode) and engine.endpoint.revision == decode.endpoint.revision

        def second() -> Coroutine[Any, Any, msgspec.Raw | None] | None:
            nonlocal other
            other = hedging.place(Stage.PREFILL, elsewhere, fits)
            if other is None or other.prefill is None:
                return None
            other.leave_decode()
            again = msgspec.structs.replace(incoming, trace=trace)
            return self._prefill(again, elsewhere, other, other.prefill)

        def dropped(is_second: bool, _: object) -> None:
            if other is not None and is_second:
                other.release()
            elif other is not None:
                place.take_prefill(other)

        first = self._prefill(incoming, prepared, place, asked)
        expected = place.placement.prefill_seconds
        return await hedging.race(Stage.PREFILL, expected, first, second, lambda params: params is not None, dropped)

    async def _prefill(
        self, incoming: Incoming, prepared: Prepared, place: Place, engine: Engine
    ) -> msgspec.Raw | None:
        """Ask the prefill engine of a place to compute the prompt; None when it failed."""
        params, seconds = None, place.placement.prefill_seconds
        self._matcher.computing(prepared, engine, seconds)
        try:
            asked = self._ask_prefill(incoming, engine, seconds)
            params = await incoming.trace.during("prefill", asked, engine=engine.name)
        except (UpstreamError, TimeoutError, *UNREADABLE) as error:
            if isinstance(error, UpstreamError):
                self.unwell(engine, error)
            why = error.plain if isinstance(error, UpstreamError) else type(error).__name__
            log.info("prefill on %s failed: %s", engine.name, why)
        finally:
            if params is None:
                self._matcher.failed(prepared, engine)
        place.prefill_done()  # who stops it gives the place up
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
            log.info("prefill on %s answered %d", engine.name, exchange.status)
            return None
        engine.health.request_succeeded()
        params = _PREFILLED.decode(body).kv_transfer_params
        return params if bytes(params).startswith(b"{") else None


def _answers(exchange: Exchange) -> bool:
    """Whether what has begun is an answer, not a reason to try elsewhere."""
    return exchange.status not in RETRIED_STATUSES
