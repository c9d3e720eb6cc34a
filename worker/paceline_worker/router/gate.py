"""Where requests get their engines: at once when there is room, else in a bounded queue in the common order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from paceline.api import wire
from paceline.policy.routing.admission import may_wait, retry_after_seconds
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.cost import Settings as PlacementSettings
from paceline.policy.routing.fleet import EngineModel
from paceline.policy.routing.placement import Placement, choose, has_room
from paceline.policy.waiting import Ticket, WaitingLine
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Engine, Fleet, Lease

AGE_BOUND_SHARE: Final = 0.5
"""A late request goes before everything else after this share of the longest wait."""
RATE_MEMORY: Final = 0.8
"""Weight of the past in the rate of finished requests, a second."""


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
        if self.prefill_lease is not None:
            self.prefill_lease.release()

    def release(self) -> None:
        """The request is over."""
        self.prefill_done()
        self.decode_lease.release()
        self._gate.released()


class _Waiter:
    __slots__ = ("arrived", "future", "ticket", "view")

    def __init__(self, view: RequestView, future: asyncio.Future[Place], arrived: float) -> None:
        self.view = view
        self.future = future
        self.arrived = arrived
        self.ticket: Ticket[_Waiter] | None = None


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
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._line: WaitingLine[_Waiter] = WaitingLine(
            age_bound_seconds=self._limits.max_queue_seconds * AGE_BOUND_SHARE
        )
        self._released = 0
        self._released_per_second = 0.0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._line)

    async def place(self, view: RequestView) -> Place:
        """Engines for a request. Raises ApiError 429 when the queue is full, 503 when the wait was too long."""
        if not self._line:  # nobody overtakes those who wait
            placed = self._try(view)
            if placed is not None:
                return placed
        if not may_wait(waiting=len(self._line), limits=self._limits):
            raise ApiError(
                429,
                f"All engines are busy and {len(self._line)} requests wait already, which is the limit.",
                reason="queue-full",
                retry_after=self._retry_after(),
            )
        return await self._wait(view)

    def wake(self) -> None:
        """Room may have appeared: place those who wait, in their order."""
        while self._line and has_room([engine.view() for engine in self._fleet], self._placement):
            waiter = self._line.pop(self._loop.time())
            if waiter is None:
                return
            placed = self._try(waiter.view)
            if placed is None:
                return
            if waiter.future.done():
                placed.release()
            else:
                waiter.future.set_result(placed)

    def released(self) -> None:
        """A request is over."""
        self._released += 1
        if self._line:
            self.wake()

    def tick(self, seconds: float) -> None:
        """Take note of how many requests finished in the last ``seconds``."""
        rate = self._released / seconds
        self._released = 0
        self._released_per_second = RATE_MEMORY * self._released_per_second + (1 - RATE_MEMORY) * rate

    def _push(self, waiter: _Waiter) -> None:
        waiter.ticket = self._line.push(
            waiter,
            arrived=waiter.arrived,
            deadline=waiter.arrived + self._ttft_seconds,
            service_seconds=self._model.prefill_seconds(waiter.view.prompt_tokens),
        )

    async def _wait(self, view: RequestView) -> Place:
        waiter = _Waiter(view, self._loop.create_future(), self._loop.time())
        self._push(waiter)
        future, place = waiter.future, None
        try:
            async with asyncio.timeout(self._limits.max_queue_seconds):
                place = await future
        except TimeoutError:
            usable = sum(engine.usable for engine in self._fleet)
            why = "no engine is usable" if usable == 0 else f"all {usable} usable engines are busy"
            raise ApiError(
                503,
                f"No engine for {self._limits.max_queue_seconds} s: {why}.",
                reason="queue-timeout" if usable else "no-engine",
                retry_after=self._retry_after(),
            ) from None
        finally:
            if waiter.ticket is not None:
                self._line.withdraw(waiter.ticket)
            if place is None and future.done() and not future.cancelled():
                future.result().release()  # placed in the same moment in which the client went away
        return place

    def _try(self, view: RequestView) -> Place | None:
        placement = choose(
            view, [engine.view() for engine in self._fleet], self._placement, self._model, self._random()
        )
        if placement is None:
            return None
        engines = self._fleet.engines
        remote = placement.prefill is not None
        decode = Lease(
            engines[placement.decode.name],
            running=1,
            context=view.prompt_tokens + view.output_tokens // 2,
            backlog=0.0 if remote else self._model.prefill_seconds(view.uncached_on(placement.decode)),
        )
        prefill = None
        if placement.prefill is not None:
            backlog = self._model.prefill_seconds(view.uncached_on(placement.prefill))
            prefill = Lease(engines[placement.prefill.name], prefilling=1, backlog=backlog)
        return Place(self, placement, decode, prefill)

    def _retry_after(self) -> int:
        return retry_after_seconds(
            waiting=len(self._line), released_per_second=self._released_per_second, limits=self._limits
        )
