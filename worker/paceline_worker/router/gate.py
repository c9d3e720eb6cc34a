"""Where requests get their engines: at once when there is room, else in a bounded queue in the common order.

There are two lines: for room on a decode engine, and for room on a prefill engine of those whose prompt is computed
apart. An engine's own queue is kept to little more than a batch, because it knows no order but that of arrival.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Protocol

import msgspec

from paceline.api import wire
from paceline.policy.routing.admission import may_wait, retry_after_seconds, tenant_part
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.cost import Settings as PlacementSettings
from paceline.policy.routing.fleet import EngineModel, EngineView
from paceline.policy.routing.pacing import rest_seconds
from paceline.policy.routing.placement import Placement, choose, has_room, prefill_room_in
from paceline.policy.routing.pools import Split
from paceline.policy.waiting import Ticket, WaitingLine, age_bound_seconds
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import VIEW_SECONDS, Engine, Fleet, Lease
from paceline_worker.router.metrics import DECISION_BUCKETS, Distribution

RATE_MEMORY: Final = 0.8
"""Weight of the past in the rate of finished requests, a second."""
ALWAYS_IN_TIME: Final = -1e9
"""Service time of requests that are served in order of arrival: none of them is ever late."""


class Asking(Protocol):
    """A request that asks for engines."""

    def view(self) -> RequestView:
        """As placement is to see it now."""
        ...

    def decided(self, view: RequestView, engines: Sequence[EngineView], placement: Placement | None) -> None:
        """What was decided, and on what."""
        ...


class Place:
    """The engines of one request, with its work accounted to them until :meth:`release`."""

    __slots__ = ("_gate", "decode", "decode_lease", "placement", "prefill", "prefill_lease")

    def __init__(self, gate: Gate, placement: Placement, decode: Lease, prefill: Lease | None) -> None:
        self._gate = gate
        self.placement = placement
        self.decode: Engine = decode.engine
        self.decode_lease = decode
        self.prefill: Engine | None = None if prefill is None else prefill.engine
        self.prefill_lease = prefill

    def prefill_done(self) -> None:
        """The remote prefill is over, well or not."""
        if self.prefill_lease is not None and self.prefill_lease.release(self._gate.now()):
            self._gate.prefilled(self.prefill_lease)

    def prompt_done(self) -> None:
        """The decode engine has the prompt."""
        self.decode_lease.prompt_done(self._gate.now())

    def release(self) -> None:
        """The request is over."""
        self.prefill_done()
        self.decode_lease.release(self._gate.now())
        self._gate.released()


class _Waiter:
    __slots__ = ("arrived", "asking", "future", "line", "seconds", "ticket")

    def __init__(self, asking: Asking, future: asyncio.Future[Place], arrived: float) -> None:
        self.asking = asking
        self.future = future
        self.arrived = arrived
        self.line: WaitingLine[_Waiter] | None = None
        self.ticket: Ticket[_Waiter] | None = None
        self.seconds = 0.0
        """Prefill work that is counted as queued."""


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
        self._placement = placement
        self._model = model
        self._limits = config.admission
        self._ttft_seconds = config.objective.ttft_milliseconds / 1000
        self._itl_seconds = config.objective.itl_milliseconds / 1000
        self._by_arrival = config.queue.order is wire.QueueOrder.ARRIVAL
        self._random = random
        self._loop = asyncio.get_running_loop()
        age_bound = age_bound_seconds(config.queue.max_late_seconds, config.admission.max_queue_seconds)
        self._decode_line: WaitingLine[_Waiter] = WaitingLine(age_bound_seconds=age_bound)
        self._prefill_line: WaitingLine[_Waiter] = WaitingLine(age_bound_seconds=age_bound)
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
    def queued_seconds(self) -> float:
        """Prefill work of the requests that wait for a prefill engine."""
        return self._queued_seconds

    @property
    def settings(self) -> PlacementSettings:
        """In force."""
        return self._placement

    def now(self) -> float:
        """By the clock of the loop."""
        return self._loop.time()

    def set_split(self, split: Split) -> None:
        """Keep cold and warm prompts apart by these figures from now on."""
        self._placement = msgspec.structs.replace(
            self._placement, cold_tokens=split.cold_tokens, cold_share=split.cold_share
        )

    def try_place(self, asking: Asking) -> Place | None:
        """Engines for a request that would not wait; None when it would have to."""
        return None if self.waiting else self._try(asking)[0]

    def decide(self, asking: Asking) -> None:
        """Tell a request what would be decided for it now."""
        view, engines = asking.view(), self._views()
        asking.decided(view, engines, choose(view, engines, self._placement, self._model, self._random()))

    async def place(self, asking: Asking, *, begun: bool = False) -> Place:
        """Engines for a request. Raises ApiError 429 when the queue is full, 503 when the wait was too long.

        ``begun``: its answer has, elsewhere; it is not refused for want of room in the queue.
        """
        line = self._decode_line
        if not line:  # nobody overtakes those who wait
            placed, line = self._try(asking)
            if placed is not None:
                return placed
        if not (begun or may_wait(waiting=self.waiting, limits=self._limits) or self._has_part(asking)):
            raise ApiError(
                429,
                f"All engines are busy and {self.waiting} requests wait already, which is the limit.",
                reason="queue-full",
                retry_after=self._retry_after(),
            )
        return await self._wait(asking, line)

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
        self._pace(lease.engine, lease.prompt_seconds, ends=self.now())
        self.wake()

    def released(self) -> None:
        """A request is over."""
        self._released += 1
        self.wake()

    def tick(self, seconds: float) -> None:
        """Take note of how many requests finished in the last ``seconds``."""
        rate = self._released / seconds
        self._released = 0
        self._released_per_second = RATE_MEMORY * self._released_per_second + (1 - RATE_MEMORY) * rate

    def _views(self) -> list[EngineView]:
        now = self.now()
        return [engine.view(now) for engine in self._fleet]

    def _serve(self, line: WaitingLine[_Waiter]) -> None:
        """Place from one line until there is no room for it."""
        while line:
            views = self._views()
            if not has_room(views, self._placement):
                return
            if line is self._prefill_line and (wait := prefill_room_in(views, self._placement)):
                self._wake_in(wait)
                return
            waiter = line.pop(self.now())
            if waiter is None:
                return
            self._count_queued(waiter, 0.0)
            placed, other = self._try(waiter.asking, line, waiter.arrived)
            if placed is None:
                if other is line and waiter.ticket is not None:
                    line.not_served(waiter.ticket)
                self._push(waiter, other)
                if other is line:
                    return
            elif waiter.future.done():
                placed.release()
            else:
                waiter.future.set_result(placed)

    def _wake_in(self, seconds: float) -> None:
        """No later than that, unless something happens before."""
        at = self.now() + max(VIEW_SECONDS, seconds)
        if self._alarm is not None:
            if self.now() < self._alarm_at <= at:
                return
            self._alarm.cancel()
        # The time is kept here: where it is as good as over, uvloop gives a handle that has none.
        self._alarm, self._alarm_at = self._loop.call_at(at, self.wake), at

    def _push(self, waiter: _Waiter, line: WaitingLine[_Waiter]) -> str:
        """Have it wait in a line. Returns whose it is."""
        view = waiter.asking.view()
        waiter.line = line
        ttft = self._ttft_seconds if view.ttft_seconds is None else view.ttft_seconds
        uncached = view.prompt_tokens - max(view.match.values(), default=0)
        service = self._model.prefill_seconds(uncached)
        waiter.ticket = line.push(
            waiter,
            arrived=waiter.arrived,
            deadline=waiter.arrived if self._by_arrival else waiter.arrived + ttft,
            service_seconds=ALWAYS_IN_TIME if self._by_arrival else service,
            priority=view.priority,
            tenant=view.tenant,
            cost=(uncached + view.output_tokens) / view.weight,
        )
        self._count_queued(waiter, service if line is self._prefill_line else 0.0)
        return view.tenant

    def _count_queued(self, waiter: _Waiter, seconds: float) -> None:
        # Sums of floats drift: an empty queue is none.
        self._queued_seconds = max(0.0, self._queued_seconds + seconds - waiter.seconds) if self._prefill_line else 0.0
        waiter.seconds = seconds

    async def _wait(self, asking: Asking, line: WaitingLine[_Waiter]) -> Place:
        waiter = _Waiter(asking, self._loop.create_future(), self.now())
        tenant = self._push(waiter, line)
        self._waiting_of[tenant] += 1
        future, place = waiter.future, None
        # Nobody is late here while no engine is there: the first requests wait for one to start.
        patience = self._limits.max_queue_seconds
        if self._limits.max_wake_seconds is not None and self._fleet.asleep:
            patience = max(patience, self._limits.max_wake_seconds)
        try:
            async with asyncio.timeout(patience):
                place = await future
        except TimeoutError:
            usable = sum(engine.usable for engine in self._fleet)
            why = "no engine is usable" if usable == 0 else f"all {usable} usable engines are busy"
            raise ApiError(
                503,
                f"No engine for {patience} s: {why}.",
                reason="queue-timeout" if usable else "no-engine",
                retry_after=self._retry_after(),
            ) from None
        finally:
            self._waiting_of[tenant] -= 1
            if waiter.line is not None and waiter.ticket is not None:
                waiter.line.withdraw(waiter.ticket)
            self._count_queued(waiter, 0.0)
            if place is None and future.done() and not future.cancelled():
                future.result().release()  # placed in the same moment in which the client went away
        return place

    def _try(
        self, asking: Asking, line: WaitingLine[_Waiter] | None = None, arrived: float | None = None
    ) -> tuple[Place | None, WaitingLine[_Waiter]]:
        """A place, or the line to wait in for one. ``line``: where the request has waited since it ``arrived``."""
        began = perf_counter()
        view, views = asking.view(), self._views()
        placement = choose(view, views, self._placement, self._model, self._random())
        self.decision_seconds.observe(perf_counter() - began)
        if placement is None:
            return None, self._decode_line
        remote = placement.prefill is not None
        overtakes = bool(self._prefill_line) and line is not self._prefill_line
        wait = prefill_room_in(views, self._placement) if remote else 0.0
        if remote and (overtakes or wait):
            self._wake_in(wait)
            return None, self._prefill_line
        if self._spares(placement, view, arrived):
            return None, self._prefill_line
        asking.decided(view, views, placement)
        engines = self._fleet.engines
        decode = Lease(
            engines[placement.decode.name],
            self.now(),
            running=1,
            context=view.prompt_tokens + view.output_tokens // 2,
            backlog=0.0 if remote else self._prefill_seconds(view, placement.decode),
        )
        prefill = None
        if placement.prefill is not None:
            backlog = self._prefill_seconds(view, placement.prefill)
            prefill = Lease(engines[placement.prefill.name], self.now(), prefilling=1, backlog=backlog)
            self._pace(prefill.engine, backlog, ends=self.now() + backlog)
        return Place(self, placement, decode, prefill), self._decode_line

    def _pace(self, engine: Engine, prompt_seconds: float, *, ends: float) -> None:
        """Give an engine with streams no prompt for a while after one that ``ends`` then."""
        if engine.finishing:
            step = self._model.step_seconds(engine.running, engine.context_tokens)
            engine.rests_until = ends + rest_seconds(prompt_seconds, step_seconds=step, itl_seconds=self._itl_seconds)
            engine.changed()

    def _spares(self, placement: Placement, view: RequestView, arrived: float | None) -> bool:
        """Whether a prompt is not to stop the streams of an engine: it would be late anyhow, and others can do it."""
        if placement.prefill is None or not self._fleet.engines[placement.prefill.name].finishing:
            return False
        now, ttft = self.now(), self._ttft_seconds if view.ttft_seconds is None else view.ttft_seconds
        if now + placement.prefill_seconds <= (now if arrived is None else arrived) + ttft:
            return False
        return any(one.usable and one.endpoint.role is wire.Role.PREFILL and not one.finishing for one in self._fleet)

    def _prefill_seconds(self, view: RequestView, engine: EngineView) -> float:
        uncached = view.uncached_on(engine)
        return self._model.prefill_seconds(uncached, view.prompt_tokens - uncached)

    def _retry_after(self) -> int:
        return retry_after_seconds(
            waiting=self.waiting, released_per_second=self._released_per_second, limits=self._limits
        )
