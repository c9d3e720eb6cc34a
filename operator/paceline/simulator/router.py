"""The simulated router: which engine computes a prompt, in which order, and where its tokens are made.

All policies run behind this one router. As in the production code, a prefill engine gets a prompt when it is done with
what it has, or nearly, and everything else waits in one line for all engines, in the order of
:class:`paceline.policy.waiting.WaitingLine`. One that still has streams of its former role gets its prompts one by one,
at the pace of :mod:`paceline.policy.routing.pacing`, and none that would be late anywhere. No prompt begins while its
stream would make those of every decode engine too slow (:mod:`paceline.policy.routing.crowding`). Costs are those of
:mod:`paceline.policy.routing.placement`, seconds through the engine model. That module scores every engine for every
request; here two are scored, the least loaded and the one that last computed the longest known part of the prompt, so
that engines cost O(log n).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from paceline.api.wire import Late, Role
from paceline.policy.overload import Refusals, Verdict
from paceline.policy.routing.crowding import crowding
from paceline.policy.routing.pacing import rest_seconds
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.waiting import age_bound_seconds
from paceline.simulator.engine import SimEngine
from paceline.simulator.events import EventLoop
from paceline.simulator.heaps import LazyHeap
from paceline.simulator.line import Line
from paceline.simulator.owner import Observer
from paceline.simulator.prices import Prices, Quote
from paceline.simulator.request import Outcome, SimRequest
from paceline.simulator.station import Station
from paceline.simulator.streams import EXPECTED_OUTPUT_TOKENS, Streams

KV_ADMISSION: Final = 0.95
"""Share of an engine's KV cache up to which it gets new sequences: the rest is for those that it has to grow."""
LOOK_SECONDS: Final = 0.25
BATCH_TOKENS: Final = 8192
AHEAD_BATCHES: Final = 0.25
"""Work that a prefill engine may have left when it gets the next prompt, in prefill steps, as in the router's own
settings.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What the router is told once. Times in seconds, sizes in tokens."""

    ttft_seconds: float
    itl_seconds: float = 0.025
    """What streams are to keep to."""
    age_bound_seconds: float = 60.0
    max_queued_requests: int = 10_000
    """More requests than this don't wait: they are refused."""
    max_queue_seconds: float = 60.0
    """Nobody waits longer for a prefill engine: the request is refused."""
    late: Late = Late.LIMIT
    """What becomes of requests that can't meet their TTFT any more."""
    local_prefill_tokens: int = 0
    """Prompts up to this long are computed by their decode engine."""
    hold_for_itl: bool = True
    """Whether requests wait while one more stream would make every decode engine miss the ITL."""


def _ignore(engine: SimEngine) -> None:
    """Nobody waits for engines to be empty."""


class SimRouter:
    """Places requests on engines. ``observer`` keeps the score; the cluster adds, and takes, engines."""

    def __init__(
        self, profile: EngineProfile, settings: RouterSettings, block_size: int, loop: EventLoop, observer: Observer
    ) -> None:
        self._profile = profile
        self._settings = settings
        self.block_size = block_size
        """Tokens of a prefix block."""
        self._loop = loop
        self._observer = observer
        self._stations: dict[int, Station] = {}
        self._prefill: LazyHeap[Station] = LazyHeap()
        self._decode: LazyHeap[Station] = LazyHeap()
        self._helpers: dict[int, None] = {}
        """Engines that compute prompts for others, also those that rest."""
        self._ahead_seconds = AHEAD_BATCHES * profile.prefill_seconds(BATCH_TOKENS)
        self._prices = Prices(profile, block_size)
        limit = crowding(profile, settings.itl_seconds) if settings.hold_for_itl else None
        self._streams = Streams(self._decode, limit)
        self._crowded = False
        """Whether the last request that asked for an engine was held for want of a place among streams."""
        self._age_bound = age_bound = age_bound_seconds(settings.age_bound_seconds, settings.max_queue_seconds)
        self.line = Line(Refusals(settings.max_queue_seconds, age_bound or math.inf, settings.late), age_bound)
        """Requests that no prefill engine has room for, or that came when there was no engine."""
        self._look_at = 0.0
        """When to look again for late requests that are too many."""
        self._handoffs: deque[SimRequest] = deque()
        """Computed prompts that no decode engine has room for."""
        self.on_empty: Callable[[SimEngine], None] = _ignore
        """Called, as an event, when an engine that was told to :meth:`leave` has nothing to do any more."""

    # -- what the cluster does --------------------------------------------------------------------------------------

    def add(self, engine: SimEngine) -> None:
        """An engine is ready, or has another role. What it had of its former role it finishes."""
        if not self._helpers:
            self.line.nobody_serves(self._loop.now)
        station = self._stations.get(engine.number)
        if station is None:
            station = self._stations[engine.number] = Station(engine)
        if engine.role is Role.DECODE:
            self._prefill.discard(station)
            self._helpers.pop(station.number, None)
        else:
            self._helpers[station.number] = None
        if engine.role is Role.PREFILL:
            self._decode.discard(station)
        self._rank_prefill(station)
        self._rank_decode(station)
        self._serve()
        self._drain()

    def leave(self, engine: SimEngine) -> None:
        """Give an engine nothing more. What it has it finishes."""
        station = self._stations[engine.number]
        engine.leaving = True
        self._helpers.pop(station.number, None)
        self._prefill.discard(station)
        self._decode.discard(station)

    def remove(self, engine: SimEngine) -> None:
        """An engine is gone, and its cache with it."""
        station = self._stations.pop(engine.number)
        self._prices.gone(station)

    @property
    def held(self) -> int:
        """Requests in the line that wait for a place among the streams of a decode engine: all or none, as the next of
        them does.
        """
        return len(self.line) if self._crowded else 0

    @property
    def handoffs(self) -> int:
        """Computed prompts that no decode engine has room for."""
        return len(self._handoffs)

    # -- requests ---------------------------------------------------------------------------------------------------

    def arrive(self, request: SimRequest) -> None:
        """A client sends a request."""
        profile = self._profile
        after = profile.transfer_seconds(request.prompt) + profile.step_seconds(1, request.prompt)
        request.deadline = request.arrived + self._settings.ttft_seconds - after
        request.left = request.prompt
        request.reusable = min(len(request.blocks), (request.prompt - 1) // self.block_size)
        if (
            request.prompt + request.output > profile.kv_capacity_tokens
            or len(self.line) >= self._settings.max_queued_requests
        ):
            self._observer.arrived(request, request.prompt)
            self._observer.ended(request, Outcome.REJECTED, self._loop.now)
            return
        decoder = self._local_decoder(request)
        if decoder is not None:
            self._compute_locally(request, decoder)
        elif self.line or not (self._has_room_for_one() and self._give(request)):
            request.service = self._service(request)
            verdict = self.line.verdict(request, self._loop.now) if self._helpers else Verdict.IN_TIME
            if verdict is Verdict.IN_VAIN:
                self._observer.arrived(request, request.prompt)
                self._observer.ended(request, Outcome.REJECTED, self._loop.now)
                return
            self.line.push(request, late=verdict is Verdict.LATE)
            self._serve()
        self._observer.arrived(request, request.prompt - request.cached)

    def _local_decoder(self, request: SimRequest) -> Station | None:
        """The decode engine that computes the prompt itself: it is short, or there is no other to do it."""
        if request.prompt > self._settings.local_prefill_tokens and self._helpers:
            return None
        decoder = self._decode.least()
        if decoder is None or decoder.engine.role is Role.BOTH or not self._has_room(decoder, request):
            return None
        if not self._helpers:
            return decoder
        elsewhere = decoder.later_than(self._prefill.least(), request.prompt, self._loop.now)
        return None if elsewhere or self._streams.too_many(request.prompt) else decoder

    def _has_room_for_one(self) -> bool:
        """Whether one engine has room for another prompt, and one, by its steps, for another stream."""
        station = self._prefill.least()
        if station is None or station.backlog.left(self._loop.now) > self._ahead_seconds:
            return False
        self._crowded = self._streams.too_many() and not self.line.overdue(self._loop.now)
        return not self._crowded

    def _may_join(self, request: SimRequest) -> bool:
        """Whether a request gets a place among streams, or has waited so long that it gets one in any case."""
        return not self._streams.too_many(request.prompt) or self._loop.now - request.arrived > self._age_bound

    def _service(self, request: SimRequest) -> float:
        """What the engine needs for a prompt that would need least for it."""
        quote = self._best(request)
        return self._profile.prefill_seconds(request.prompt) if quote is None else quote.service

    def _serve(self) -> None:
        """Give what waits to engines that have room."""
        line, now = self.line, self._loop.now
        if self._helpers and now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for late in line.surplus(now):
                self._observer.ended(late, Outcome.REJECTED, now)
        while line and (self._has_room_for_one() or not self._helpers):
            request = line.pop(now)
            if request is None:
                return
            if now - request.arrived > self._settings.max_queue_seconds:
                self._observer.ended(request, Outcome.REJECTED, now)
                continue
            decoder = None if self._helpers else self._local_decoder(request)
            if decoder is not None:
                self._compute_locally(request, decoder)
            elif not (self._helpers and self._give(request)):
                request.service = self._service(request)
                line.push(request)
                return

    def _give(self, request: SimRequest) -> bool:
        """Let the engine that costs least compute a prompt. False if it should rather wait for another one."""
        quote = self._best(request)
        if quote is None:
            return False
        self._crowded = not self._may_join(request)
        if self._crowded:
            return False
        station = quote.station
        engine = station.engine
        if station.mixed and self._can_wait(request, quote.service):
            return False
        request.service = quote.service
        request.local = engine.role is Role.BOTH
        if not request.local:
            self._streams.promise(request)
        station.backlog.add(request, request.service, self._loop.now)
        engine.give(request)
        self._rank_prefill(station)
        return True

    def _can_wait(self, request: SimRequest, service: float) -> bool:
        """Whether a prompt would be late anyway, and there are engines without streams that it may wait for."""
        if self._loop.now + service <= request.deadline:
            return False
        return any(not self._stations[number].mixed for number in self._helpers)

    def _best(self, request: SimRequest) -> Quote | None:
        """What the prompt costs where that is least; None where no engine takes prompts now."""
        station = self._prefill.least()
        return None if station is None else self._prices.cheaper(request, station, self._prefill, self._loop.now)

    def _compute_locally(self, request: SimRequest, station: Station) -> None:
        request.local = True
        request.done = request.cached = 0
        request.left = request.prompt
        station.owe(request.prompt, self._loop.now, itl_seconds=self._settings.itl_seconds)
        self._assign(request, station)
        station.engine.give(request)

    def begun(self, engine: SimEngine, request: SimRequest) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        if request.decoder is None:
            # What it holds may have changed since the request was given to it.
            blocks, request.load_seconds = engine.cache.match(request.blocks, request.reusable)
            request.cached = request.done = blocks * self.block_size
            request.left = request.prompt - request.done

    def computed(self, engine: SimEngine, request: SimRequest) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        if request.finish_step < 0:
            return  # computed again after a preemption: it is where it belongs
        station = self._stations[engine.number]
        if request.decoder is None:
            station.backlog.done(request, self._loop.now)
            if station.mixed:
                self._rest(station, request.service)
            self._rank_prefill(station)
            if request.blocks:
                self._prices.computed(station, request.blocks)
        if request.first_token < 0 and request.local:
            self._observer.begun(request, self._loop.now)
        if not request.local:
            request.prefiller = engine
            self._hand_off(request)
        elif request.decoder is None:
            self._assign(request, station)
        if self.line:
            self._serve()

    def _hand_off(self, request: SimRequest) -> None:
        station = self._decode.least()
        if station is None or self._handoffs or not self._has_room(station, request):
            self._handoffs.append(request)
        else:
            self._transfer(request, station)

    def _has_room(self, station: Station, request: SimRequest) -> bool:
        engine = station.engine
        if station.assigned >= engine.max_seqs:
            return False
        limit = KV_ADMISSION * engine.capacity - request.prompt
        if engine.most_used <= limit:
            return True
        engine.settle()
        return engine.used <= limit or not station.assigned

    def _transfer(self, request: SimRequest, station: Station) -> None:
        self._streams.keep(request)
        self._assign(request, station)
        begin = station.engine.expect(request)
        self._loop.at(begin + self._profile.transfer_seconds(request.prompt), self._transferred, request)

    def _transferred(self, request: SimRequest) -> None:
        if request.prefiller is not None:
            request.prefiller.release(request)
            request.prefiller = None
        if request.decoder is not None:
            request.decoder.join(request)
            self._observer.begun(request, self._loop.now)

    def _drain(self) -> None:
        """Decode engines may have room again."""
        while self._handoffs:
            station = self._decode.least()
            if station is None or not self._has_room(station, self._handoffs[0]):
                return
            self._transfer(self._handoffs.popleft(), station)
        if self.line and (self._crowded or not self._helpers):
            self._serve()

    def _assign(self, request: SimRequest, station: Station) -> None:
        request.decoder = station.engine
        station.assigned += 1
        station.assigned_tokens += request.prompt
        self._rank_decode(station)

    def finished(self, engine: SimEngine, request: SimRequest, at: float) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        station = self._stations[engine.number]
        station.assigned -= 1
        station.assigned_tokens -= request.prompt
        self._rank_decode(station)
        if engine.role is Role.PREFILL and not station.assigned:
            self._rank_prefill(station)
            self._serve()
        self._observer.ended(request, Outcome.COMPLETED, at)
        self._drain()

    def emptied(self, engine: SimEngine) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        # As an event: the engine is in the middle of something.
        self._loop.at(self._loop.now, self.on_empty, engine)

    # -- bookkeeping ------------------------------------------------------------------------------------------------

    def _rank_prefill(self, station: Station) -> None:
        engine = station.engine
        if engine.leaving or engine.role is Role.DECODE:
            return
        key = station.backlog.given
        if station.mixed:
            if station.backlog or station.rests_until > self._loop.now:
                self._prefill.discard(station)
                return
            # Only what would have to wait for the others.
            key = self._ahead_seconds
        if engine.role is Role.BOTH:
            key += EXPECTED_OUTPUT_TOKENS * self._profile.decode_work(station.assigned, station.assigned_tokens)
        self._prefill.set(station, key)

    def _rest(self, station: Station, seconds: float) -> None:
        """Let an engine decode for a while after a prompt of ``seconds``."""
        engine = station.engine
        engine.settle()
        step = self._profile.step_seconds(engine.batch, engine.context)
        rest = rest_seconds(seconds, step_seconds=step, itl_seconds=self._settings.itl_seconds)
        station.rests_until = self._loop.now + rest
        self._loop.at(station.rests_until, self._rested, station)

    def _rested(self, station: Station) -> None:
        self._rank_prefill(station)
        self._serve()

    def _rank_decode(self, station: Station) -> None:
        engine = station.engine
        if not engine.leaving and engine.role is not Role.PREFILL:
            self._decode.set(station, self._profile.decode_work(station.assigned, station.assigned_tokens))
