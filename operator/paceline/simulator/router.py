"""The simulated router: which engine computes a prompt, in which order, and where its tokens are made.

All policies run behind this one router. Queue order is the production code's
(:class:`paceline.policy.waiting.WaitingLine`); costs are those of :mod:`paceline.policy.routing.placement`, seconds
through the engine model. That module scores every engine for every request; here two are scored, the least loaded and
the one that last computed the longest known part of the prompt, so that engines cost O(log n).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from paceline.api.wire import Role
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.cache import leading
from paceline.simulator.engine import SimEngine
from paceline.simulator.events import EventLoop
from paceline.simulator.heaps import LazyHeap
from paceline.simulator.owner import Phase
from paceline.simulator.request import Outcome, SimRequest
from paceline.simulator.station import Station

KV_ADMISSION: Final = 0.95
"""Share of an engine's KV cache up to which it gets new sequences: the rest is for those that it has to grow."""
EXPECTED_OUTPUT_TOKENS: Final = 256
"""Steps by which the batch of an engine that serves both roles is weighed, as in placement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What the router is told once. Times in seconds, sizes in tokens."""

    ttft_seconds: float
    age_bound_seconds: float = 60.0
    max_queued_requests: int = 10_000
    """More requests than this don't wait: they are refused."""
    max_queue_seconds: float = 60.0
    """Nobody waits longer for a prefill engine: the request is refused."""
    local_prefill_tokens: int = 0
    """Prompts up to this long are computed by their decode engine."""


class Observer(Protocol):
    """Who keeps the score."""

    def arrived(self, request: SimRequest, uncached: int) -> None:
        """A request came, ``uncached`` tokens of which the engine it was placed on does not hold."""
        ...

    def begun(self, request: SimRequest, at: float) -> None:
        """A request is about to get its first token: within one decode step."""
        ...

    def ended(self, request: SimRequest, outcome: Outcome, at: float) -> None:
        """A request is completed or refused."""
        ...


Quote = tuple[float, float, int, float, bool]
"""What a prompt would cost on an engine: seconds until it is computed, seconds of the engine's time, tokens that are
cached there, seconds to load those from slower tiers, whether it would be in time if it were computed now.
"""


def _accept(request: SimRequest, quote: Quote) -> None:
    """The request goes where the quote is from."""
    _, request.service, request.cached, request.load_seconds, request.urgent = quote
    request.done = request.cached
    request.left = request.prompt - request.cached


def _ignore(engine: SimEngine) -> None:
    """Nobody waits for engines to be empty."""


class SimRouter:
    """Places requests on engines. ``observer`` keeps the score; the cluster adds, and takes, engines."""

    def __init__(
        self, profile: EngineProfile, settings: RouterSettings, block_size: int, loop: EventLoop, observer: Observer
    ) -> None:
        self._profile = profile
        self._base = profile.prefill_base
        self._token = profile.prefill_token
        self._attention = profile.prefill_attention
        self._settings = settings
        self.block_size = block_size
        """Tokens of a prefix block."""
        self._loop = loop
        self._observer = observer
        self._stations: dict[int, Station] = {}
        self._prefill: LazyHeap[Station] = LazyHeap()
        self._decode: LazyHeap[Station] = LazyHeap()
        self._crowded: LazyHeap[Station] = LazyHeap()
        """Stations where requests wait, the one with most work first."""
        self._holders: dict[int, Station] = {}
        """Block to the engine that last held it in use."""
        self._handoffs: deque[SimRequest] = deque()
        """Computed prompts that no decode engine has room for."""
        self._unplaced: deque[SimRequest] = deque()
        """Requests that came when there was no engine."""
        self.on_empty: Callable[[SimEngine], None] = _ignore
        """Called, as an event, when an engine that was told to :meth:`leave` has nothing to do any more."""
        self.waiting = 0
        """Requests that wait for an engine that computes their prompt."""

    # -- what the cluster does --------------------------------------------------------------------------------------

    def add(self, engine: SimEngine) -> None:
        """An engine is ready for its role."""
        station = self._stations.get(engine.number)
        if station is None:
            station = self._stations[engine.number] = Station(engine, self._settings.age_bound_seconds)
        engine.phase = Phase.SERVING
        if engine.role is not Role.DECODE:
            # What decoding left of the cache, if it decoded before.
            self._forget(station, engine.cache.shrink(engine.cache_room() // self.block_size))
            self._rank_prefill(station)
        if engine.role is not Role.PREFILL:
            self._rank_decode(station)
        self._place_unplaced()
        if engine.role is not Role.DECODE:
            engine.wake()
        self._drain()

    def leave(self, engine: SimEngine) -> None:
        """Give an engine nothing more. What waits for it goes elsewhere."""
        station = self._stations[engine.number]
        self._prefill.discard(station)
        self._decode.discard(station)
        self._crowded.discard(station)
        homeless = engine.leave()
        while (request := station.pop(self._loop.now)) is not None:
            self.waiting -= 1
            homeless.append(request)
        for request in homeless:
            self._place(request)

    def remove(self, engine: SimEngine) -> None:
        """An engine is gone, and its cache with it."""
        station = self._stations.pop(engine.number)
        engine.phase = Phase.GONE
        self._forget(station, engine.cache.clear())

    def waiting_on(self, engine: SimEngine) -> tuple[int, int]:
        """(requests, uncached tokens) that wait in the router for this engine."""
        station = self._stations[engine.number]
        return len(station.line), station.waiting_tokens

    def waiting_work(self, engine: SimEngine) -> tuple[int, float]:
        """(requests, seconds of prefill) that wait in the router for this engine."""
        station = self._stations[engine.number]
        return len(station.line), max(0.0, station.urgent_seconds + station.late_seconds)

    @property
    def handoffs(self) -> int:
        """Computed prompts that no decode engine has room for."""
        return len(self._handoffs)

    @property
    def unplaced(self) -> int:
        """Requests for which there is no engine at all."""
        return len(self._unplaced)

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
            or self.waiting >= self._settings.max_queued_requests
        ):
            self._observer.arrived(request, request.prompt)
            self._observer.ended(request, Outcome.REJECTED, self._loop.now)
            return
        self._place(request)
        self._observer.arrived(request, request.prompt - request.cached)

    def _place(self, request: SimRequest) -> None:
        """Choose the engine that computes the prompt, and let it, or let the request wait for it."""
        station = self._prefill.least()
        if station is None or request.prompt <= self._settings.local_prefill_tokens:
            decoder = self._decode.least()
            if decoder is not None and decoder not in self._prefill and self._has_room(decoder, request):
                self._compute_locally(request, decoder)
                return
            if station is None:
                self._unplaced.append(request)
                self.waiting += 1
                return
        now = self._loop.now
        quote = self._quote(request, station, now)
        holder = self._holder(request) if request.blocks else None
        if holder is not None and holder is not station and holder in self._prefill:
            other = self._quote(request, holder, now)
            if other[0] <= quote[0]:
                station, quote = holder, other
        _accept(request, quote)
        engine = station.engine
        request.local = engine.role is Role.BOTH
        if engine.idle and not len(station.line):
            engine.submit(request)
            engine.wake()
        else:
            station.push(request)
            self.waiting += 1
            self._rank_crowd(station)
            # An engine that only decodes would not look for a prompt until one of its sequences ends.
            engine.wake()
        self._rank_prefill(station)

    def _quote(self, request: SimRequest, station: Station, now: float) -> Quote:
        """What the prompt would cost there. A request that can't be in time waits for those that can."""
        engine = station.engine
        blocks, load_seconds = engine.cache.match(request.blocks, request.reusable)
        cached = blocks * self.block_size
        new = request.prompt - cached
        # EngineProfile.prefill_seconds, spelt out.
        service = self._base + new * (self._token + self._attention * (cached + new / 2)) + load_seconds
        seconds = service + station.urgent_seconds
        if engine.busy_until > now:
            seconds += engine.busy_until - now
        urgent = now + service <= request.deadline
        return seconds if urgent else seconds + station.late_seconds, service, cached, load_seconds, urgent

    def _holder(self, request: SimRequest) -> Station | None:
        blocks = request.blocks
        known = leading(self._holders, blocks, 0, request.reusable)
        return self._holders[blocks[known - 1]] if known else None

    def _compute_locally(self, request: SimRequest, station: Station) -> None:
        request.local = True
        request.load_seconds = 0.0
        request.done = request.cached = 0
        request.left = request.prompt
        self._assign(request, station)
        station.engine.submit(request)
        station.engine.wake()

    def next_prompt(self, engine: SimEngine) -> SimRequest | None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        if not self.waiting or engine.phase is not Phase.SERVING:
            return None
        station = self._stations[engine.number]
        now = self._loop.now
        while (request := station.pop(now) or self._steal(station, now)) is not None:
            self.waiting -= 1
            if now - request.arrived > self._settings.max_queue_seconds:
                self._observer.ended(request, Outcome.REJECTED, now)
                continue
            self._rank_crowd(station)
            # What it holds may have changed since the request was placed.
            blocks, request.load_seconds = engine.cache.match(request.blocks, request.reusable)
            request.cached = request.done = blocks * self.block_size
            request.left = request.prompt - request.done
            request.local = engine.role is Role.BOTH
            return request
        self._rank_crowd(station)
        return None

    def _steal(self, station: Station, now: float) -> SimRequest | None:
        """The next request of the engine with most waiting work, if this engine would be done with it sooner."""
        victim = self._crowded.least()
        if victim is None or victim is station:
            return None
        request = victim.pop(now)
        if request is not None:
            there = max(0.0, victim.engine.busy_until - now) + request.service
            quote = self._quote(request, station, now)
            if quote[1] > there:
                _accept(request, self._quote(request, victim, now))
                victim.push(request)
                request = None
            else:
                _accept(request, quote)
        self._rank_crowd(victim)
        self._rank_prefill(victim)
        return request

    def computed(self, engine: SimEngine, request: SimRequest) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        station = self._stations[engine.number]
        if engine.role is not Role.DECODE and request.blocks and request.finish_step >= 0:
            self._holders.update(dict.fromkeys(request.blocks, station))
            gone = engine.cache.touch(request.blocks)
            if engine.role is Role.BOTH:
                gone += engine.cache.shrink(engine.cache_room() // self.block_size)
            self._forget(station, gone)
        if request.local and request.first_token < 0:
            self._observer.begun(request, self._loop.now)
        if not request.local:
            request.prefiller = engine
            self._hand_off(request)
        elif engine.role is Role.BOTH and request.finish_step >= 0:
            self._assign(request, station)

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
        self._assign(request, station)
        request.decoder = station.engine
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
        if self._unplaced:
            self._place_unplaced()

    def _place_unplaced(self) -> None:
        unplaced, self._unplaced = self._unplaced, deque()
        self.waiting -= len(unplaced)
        for request in unplaced:
            self._place(request)

    def _assign(self, request: SimRequest, station: Station) -> None:
        station.assigned += 1
        station.assigned_tokens += request.prompt
        self._rank_decode(station)

    def finished(self, engine: SimEngine, request: SimRequest, at: float) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        station = self._stations[engine.number]
        station.assigned -= 1
        station.assigned_tokens -= request.prompt
        if station in self._decode:
            self._rank_decode(station)
        self._observer.ended(request, Outcome.COMPLETED, at)
        self._drain()

    def emptied(self, engine: SimEngine) -> None:
        """See :class:`paceline.simulator.engine.EngineOwner`."""
        # As an event: the engine is in the middle of something.
        self._loop.at(self._loop.now, self.on_empty, engine)

    # -- bookkeeping ------------------------------------------------------------------------------------------------

    def _rank_prefill(self, station: Station) -> None:
        engine = station.engine
        if engine.phase is not Phase.SERVING:
            return
        key = engine.busy_until + station.urgent_seconds
        if engine.role is Role.BOTH:
            key += EXPECTED_OUTPUT_TOKENS * self._profile.decode_work(station.assigned, station.assigned_tokens)
        self._prefill.set(station, key)

    def _rank_decode(self, station: Station) -> None:
        if station.engine.phase is Phase.SERVING:
            self._decode.set(station, self._profile.decode_work(station.assigned, station.assigned_tokens))

    def _rank_crowd(self, station: Station) -> None:
        if len(station.line):
            self._crowded.set(station, -(station.urgent_seconds + station.late_seconds))
        else:
            self._crowded.discard(station)

    def _forget(self, station: Station, parts: list[list[int]]) -> None:
        holders = self._holders
        for part in parts:
            for block in part:
                if holders.get(block) is station:
                    del holders[block]
