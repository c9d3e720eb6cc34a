"""Where requests get their engines: at once when there is room, else in a bounded queue in the common order.

There are two lines: for room on a decode engine, and for room on a prefill engine of those whose prompt is computed
apart. An engine's own queue is kept to little more than a batch, because it knows no order but that of arrival.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import msgspec

from paceline.api import wire
from paceline.policy.overload import Refusals, Verdict
from paceline.policy.routing.admission import may_wait, retry_after_seconds, tenant_part
from paceline.policy.routing.cost import Settings as PlacementSettings
from paceline.policy.routing.fleet import EngineModel, EngineView
from paceline.policy.routing.placement import has_room, prefill_room_in
from paceline.policy.waiting import WaitingLine, age_bound_seconds
from paceline_worker.router.errors import ApiError, Refused
from paceline_worker.router.fleet import VIEW_SECONDS, Fleet, Lease
from paceline_worker.router.metrics import DECISION_BUCKETS, Distribution
from paceline_worker.router.places import Asking, Place, Waiter
from paceline_worker.router.seats import Seats
from paceline_worker.router.yielding import Guests

RATE_MEMORY: Final = 0.8
"""Weight of the past in the rate of finished requests, a second."""
ALWAYS_IN_TIME: Final = -1e9
"""Service time of requests that are served in order of arrival, and of paused ones: none of them is ever late."""
BEFORE_ALL: Final = 0.0
"""Deadline of a paused stream: who has waited for its next word longest is of the same priority and came earlier."""


class Gate:
    """Places requests on the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        placement: PlacementSettings,
        model: EngineModel,
        config: wire.RouterConfig,
        random: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self.seats = Seats(self, fleet, placement, model, config.objective, random)
        self._limits = config.admission
        self._by_arrival = config.queue.order is wire.QueueOrder.ARRIVAL
        self._loop = asyncio.get_running_loop()
        age_bound = age_bound_seconds(config.queue.max_late_seconds, config.admission.max_queue_seconds)
        refusals = Refusals(
            max_queue_seconds=float(config.admission.max_queue_seconds),
            age_bound_seconds=math.inf if self._by_arrival else age_bound,  # in order of arrival nobody is put behind
            late=config.admission.late,
        )
        self._age_bound = age_bound
        self._decode_line: WaitingLine[Waiter] = WaitingLine(age_bound_seconds=age_bound, refusals=refusals)
        self._prefill_line: WaitingLine[Waiter] = WaitingLine(age_bound_seconds=age_bound, refusals=refusals)
        self._claims: set[Waiter] = set()
        """Those who wait for whom batch work gives way."""
        self.guests = Guests(self._guest_came, self._loop)
        self._prefill_first = False
        """Which line goes first; takes turns, so that neither starves the other."""
        tenants = () if config.tenancy is None else config.tenancy.tenants
        weights = sum(tenant.weight for tenant in tenants)
        self._parts = {
            one.name: tenant_part(weight=one.weight, weights=weights, limits=self._limits) for one in tenants
        }
        """Requests of each tenant that may always wait."""
        self._waiting_of: Counter[str] = Counter()
        """Requests by tenant."""
        self._queued_seconds = 0.0
        self._queued_bytes = 0
        self._waking = False
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0
        """Wakes when a prefill engine will have room, before it says so."""
        self._released = 0
        self._released_per_second = 0.0
        self.decision_seconds = Distribution(DECISION_BUCKETS)
        """Of every choice of engines, those that found none among them."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._decode_line) + len(self._prefill_line)

    @property
    def queued_decode(self) -> int:
        """Requests that wait for a decode engine with room."""
        return len(self._decode_line)

    @property
    def queued_seconds(self) -> float:
        """Prefill work of the requests that wait for a prefill engine."""
        return self._queued_seconds

    @property
    def queued_bytes(self) -> int:
        """Memory of the requests in the queue."""
        return self._queued_bytes

    def now(self) -> float:
        """By the clock of the loop."""
        return self._loop.time()

    def try_place(self, asking: Asking) -> Place | None:
        """Engines for a request that would not wait; None when it would have to, or would slow others down too much."""
        return None if self.waiting else self._try(asking, spares=True)[0]

    def decide(self, asking: Asking) -> None:
        """Tell a request what would be decided for it now."""
        view, engines = asking.view(), self.seats.views()
        asking.decided(view, engines, self.seats.choose(view, engines))

    async def place(self, asking: Asking) -> Place:
        """Engines for a request. Raises ApiError 429 when the queue is full or it would wait in vain, 503 when the wait
        was too long.

        One whose answer has begun is not refused for want of room in the queue. Nor is a paused guest, which goes
        before others of its priority, and waits for as long as its answer may live.
        """
        line = self._decode_line
        if not line or line.goes_first(asking.priority):  # nobody overtakes those who wait, but of lower priority
            placed, line = self._try(asking)
            if placed is not None:
                return placed
        known = asking.begun or (asking.guest is not None and asking.guest.paused)
        verdict = Verdict.IN_TIME if known else self._verdict(asking, line)
        return await self._wait(asking, line, late=verdict is Verdict.LATE and not self._by_arrival)

    def _verdict(self, asking: Asking, line: WaitingLine[Waiter]) -> Verdict:
        """Raises ApiError when the request may not wait. Cheap: most that come in an overload end here."""
        if not (may_wait(waiting=self.waiting, limits=self._limits) or self._has_part(asking)):
            raise self._refusal(Refused.QUEUE_FULL, f"{self.waiting} requests wait already, which is the limit")
        if self._queued_bytes and self._queued_bytes + asking.held_bytes > self._limits.max_queued_bytes:
            raise self._refusal(Refused.QUEUE_MEMORY, f"those that wait take {self._queued_bytes} bytes already")
        if not any(engine.usable for engine in self._fleet):
            return Verdict.IN_TIME  # it may wait for one to come
        view, now = asking.view(), self.now()
        _, service = self.seats.needs(view)
        latest = now + self.seats.ttft_of(view) - service
        verdict = line.verdict(now, latest_start=latest, priority=view.priority, tenant=view.tenant)
        if verdict is Verdict.IN_VAIN:
            raise self._in_vain()
        return verdict

    def _in_vain(self) -> ApiError:
        return self._refusal(
            Refused.IN_VAIN, f"{self.waiting} requests wait, which is as many as can be served in time"
        )

    def _refusal(self, reason: Refused, why: str) -> ApiError:
        return ApiError(429, f"All engines are busy and {why}.", reason=reason, retry_after=self._retry_after())

    def _has_part(self, asking: Asking) -> bool:
        if not self._parts:
            return False
        tenant = asking.view().tenant
        return self._waiting_of[tenant] < self._parts.get(tenant, 0)

    def wake(self) -> None:
        """Room may have appeared: place those who wait, in their order."""
        if self._waking or not self.waiting:
            return
        self._waking = True
        try:
            lines = [self._decode_line, self._prefill_line]
            for line in reversed(lines) if self._prefill_first else lines:
                self._serve(line)
            self._prefill_first = not self._prefill_first
        finally:
            self._waking = False

    def prefilled(self, lease: Lease) -> None:
        """A prefill engine is done with a prompt. If it has streams to finish, they go first for a while."""
        self.seats.pace(lease.engine, lease.prompt_seconds, ends=self.now())
        self.wake()

    def released(self) -> None:
        """A request is over."""
        self._released += 1
        self.wake()

    def tick(self, seconds: float) -> None:
        """Take note of how many requests finished in the last ``seconds``; give up late ones that are too many."""
        rate = self._released / seconds
        self._released = 0
        self._released_per_second = RATE_MEMORY * self._released_per_second + (1 - RATE_MEMORY) * rate
        served = any(engine.usable for engine in self._fleet)
        for line in (self._decode_line, self._prefill_line):
            if not served:
                line.nobody_serves(self.now())
                continue
            for waiter in line.surplus(self.now()):
                if not waiter.future.done():
                    waiter.future.set_exception(self._in_vain())

    def _serve(self, line: WaitingLine[Waiter]) -> None:
        """Place from one line until there is no room for it."""
        while line:
            views = self.seats.views()
            room = has_room(views, self.seats.settings) or self._crowds_next(line, views)
            if room and line is self._prefill_line and (wait := prefill_room_in(views, self.seats.settings)):
                self._wake_in(wait)
                return
            if not room:
                self._make_room(line, views)
                return
            waiter = line.pop(self.now())
            if waiter is None:
                return
            self._count_queued(waiter, 0.0)
            placed, other = self._try(waiter.asking, line, waiter.arrived)
            if placed is None:
                if other is line and waiter.ticket is not None:
                    waiter.late = waiter.ticket.late
                    line.not_served(waiter.ticket, self.now())
                self._push(waiter, other)
                if other is line:
                    return
            elif waiter.future.done():
                placed.release()
            else:
                waiter.future.set_result(placed)

    def _crowds_next(self, line: WaitingLine[Waiter], views: Sequence[EngineView]) -> bool:
        """Whether one has waited so long that it gets one of the engines whose streams are too many, if any has room by
        their number.
        """
        settings = self.seats.settings
        if settings.crowding is None or not line.overdue(self.now()):
            return False
        return has_room(views, msgspec.structs.replace(settings, crowding=None))

    def _make_room(self, line: WaitingLine[Waiter], views: Sequence[EngineView]) -> None:
        """Have batch work give way to those who wait in this line for want of a decode engine."""
        if line is self._prefill_line and prefill_room_in(views, self.seats.settings):
            return  # that is what they wait for

        def wanted() -> int:
            waiting = sum(waiter.line is line and not waiter.future.done() for waiter in self._claims)
            # Who finds room may go on to wait for a prefill engine: one after the other shows whether they do.
            return min(1, waiting) if self.seats.settings.disaggregated else waiting

        self.guests.make_room(wanted, views, self.seats.settings)

    def _guest_came(self) -> None:
        if self._claims:
            self.wake()

    def _wake_in(self, seconds: float) -> None:
        """No later than that, unless something happens before."""
        at = self.now() + max(VIEW_SECONDS, seconds)
        if self._alarm is not None:
            if self.now() < self._alarm_at <= at:
                return
            self._alarm.cancel()
        # The time is kept here: where it is as good as over, uvloop gives a handle that has none.
        self._alarm, self._alarm_at = self._loop.call_at(at, self.wake), at

    def _push(self, waiter: Waiter, line: WaitingLine[Waiter]) -> str:
        """Have it wait in a line. Returns whose it is."""
        view = waiter.asking.view()
        waiter.line = line
        uncached, service = self.seats.needs(view)
        deadline = waiter.arrived if self._by_arrival else waiter.arrived + self.seats.ttft_of(view)
        waiter.ticket = line.push(
            waiter,
            arrived=waiter.arrived,
            deadline=BEFORE_ALL if waiter.paused else deadline,
            service_seconds=ALWAYS_IN_TIME if self._by_arrival or waiter.paused else service,
            priority=view.priority,
            tenant=view.tenant,
            cost=(uncached + view.output_tokens) / view.weight,
            late=waiter.late,
        )
        self._count_queued(waiter, service if line is self._prefill_line else 0.0)
        return view.tenant

    def _count_queued(self, waiter: Waiter, seconds: float) -> None:
        # Sums of floats drift: an empty queue is none.
        self._queued_seconds = max(0.0, self._queued_seconds + seconds - waiter.seconds) if self._prefill_line else 0.0
        waiter.seconds = seconds

    async def _wait(self, asking: Asking, line: WaitingLine[Waiter], *, late: bool) -> Place:
        waiter = Waiter(asking, self._loop.create_future(), self.now(), late=late)
        tenant = self._push(waiter, line)
        held = asking.held_bytes
        self._waiting_of[tenant] += 1
        self._queued_bytes += held
        future, place = waiter.future, None
        # Nobody is late here while no engine is there: the first requests wait for one to start.
        patience = None if waiter.paused else self._limits.max_queue_seconds
        if patience is not None and self._limits.max_wake_seconds is not None and self._fleet.asleep:
            patience = max(patience, self._limits.max_wake_seconds)
        if asking.claims:
            self._claims.add(waiter)
        try:
            views = self.seats.views()
            if not has_room(views, self.seats.settings):
                self._make_room(line, views)
            async with asyncio.timeout(patience):
                place = await future
        except TimeoutError:
            usable = sum(engine.usable for engine in self._fleet)
            why = "no engine is usable" if usable == 0 else f"all {usable} usable engines are busy"
            raise ApiError(
                503,
                f"No engine for {patience} s: {why}.",
                reason=Refused.QUEUE_TIMEOUT if usable else Refused.NO_ENGINE,
                retry_after=self._retry_after(),
            ) from None
        finally:
            self._claims.discard(waiter)
            self._waiting_of[tenant] -= 1
            self._queued_bytes -= held
            if waiter.line is not None and waiter.ticket is not None:
                waiter.line.withdraw(waiter.ticket)
            self._count_queued(waiter, 0.0)
            if place is None and future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()  # placed in the same moment in which the client went away
        return place

    def _try(
        self,
        asking: Asking,
        line: WaitingLine[Waiter] | None = None,
        arrived: float | None = None,
        *,
        spares: bool = False,
    ) -> tuple[Place | None, WaitingLine[Waiter]]:
        """A place, or the line to wait in for one. ``line``: where the request has waited since it ``arrived``.
        ``spares``: it is not to slow others down too much, whatever happened to it.
        """
        began = perf_counter()
        view, views = asking.view(), self.seats.views()
        if self.seats.settings.crowding is not None and self._may_crowd(asking, arrived):
            view = msgspec.structs.replace(view, crowds=True)
        placement = self.seats.choose(view, views)
        self.decision_seconds.observe(perf_counter() - began)
        if placement is None or (spares and self.seats.crowds(view, placement)):
            return None, self._decode_line
        remote = placement.prefill is not None
        overtakes = line is not self._prefill_line and not self._prefill_line.goes_first(view.priority)
        wait = prefill_room_in(views, self.seats.settings) if remote else 0.0
        if remote and (overtakes or wait):
            self._wake_in(wait)
            return None, self._prefill_line
        if self.seats.spares(placement, view, arrived):
            return None, self._prefill_line
        asking.decided(view, views, placement)
        return self.seats.take(view, placement), self._decode_line

    def _may_crowd(self, asking: Asking, arrived: float | None) -> bool:
        """Whether it gets a place although streams become too slow for it: somebody waits for the next word of its
        answer, or it has waited long enough. A stream that gave way has done so for others, and waits like them.
        """
        if asking.begun and not (asking.guest is not None and asking.guest.paused):
            return True
        return arrived is not None and self.now() - arrived > self._age_bound

    def _retry_after(self) -> int:
        return retry_after_seconds(
            waiting=self.waiting, released_per_second=self._released_per_second, limits=self._limits
        )
