"""What passes between requests and the gate: who asks, who waits, and the place that somebody has got."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.placement import Placement
from paceline.policy.waiting import Ticket, WaitingLine
from paceline_worker.router.fleet import Engine, Lease
from paceline_worker.router.yielding import Guest


class Owner(Protocol):
    """Who gave a place, and wants to know what becomes of it."""

    def now(self) -> float:
        """By the clock of the leases."""
        ...

    def prefilled(self, lease: Lease) -> None:
        """A prefill engine is done with a prompt."""
        ...

    def released(self) -> None:
        """A request is over."""
        ...


class Asking(Protocol):
    """A request that asks for engines."""

    @property
    def held_bytes(self) -> int:
        """Memory that it takes while it waits."""
        ...

    @property
    def priority(self) -> int:
        """The higher goes first."""
        ...

    @property
    def begun(self) -> bool:
        """Whether a part of its answer was given already, elsewhere."""
        ...

    @property
    def claims(self) -> bool:
        """Whether streams of batch work give way to it."""
        ...

    @property
    def guest(self) -> Guest | None:
        """Its stream, if that may be interrupted; a paused one asks again."""
        ...

    def view(self) -> RequestView:
        """As placement is to see it now."""
        ...

    def decided(self, view: RequestView, engines: Sequence[EngineView], placement: Placement | None) -> None:
        """What was decided, and on what."""
        ...


class Place:
    """The engines of one request, with its work accounted to them until :meth:`release`.

    It may move to engines that were asked later (``take_...``). On an engine that was given up for its slowness the
    request still counts until it is over: else a slow engine would look like a free one, and get more than before.
    """

    __slots__ = ("_gate", "_left", "decode", "decode_lease", "placement", "prefill", "prefill_lease")

    def __init__(self, gate: Owner, placement: Placement, decode: Lease, prefill: Lease | None) -> None:
        self._gate = gate
        self._left: list[Lease] = []
        """On engines that were given up."""
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

    def leave_decode(self) -> None:
        """The decode engine is not needed."""
        self.decode_lease.release(self._gate.now())

    def take_prefill(self, other: Place) -> None:
        """The prompt comes from another place's prefill engine."""
        if self.prefill_lease is not None:
            self._left.append(self.prefill_lease)
        self.prefill, self.prefill_lease = other.prefill, other.prefill_lease

    def take_over(self, other: Place) -> None:
        """Be the other place from now on."""
        self.prefill_done()
        self._left.append(self.decode_lease)
        self.placement = other.placement
        self.decode, self.decode_lease = other.decode, other.decode_lease
        self.prefill, self.prefill_lease = other.prefill, other.prefill_lease

    def release(self) -> None:
        """The request is over."""
        now = self._gate.now()
        for lease in self._left:
            lease.release(now)
        self.prefill_done()
        if self.decode_lease.release(now):
            self._gate.released()


class Waiter:
    """A request in a line."""

    __slots__ = ("arrived", "asking", "future", "late", "line", "paused", "seconds", "ticket")

    def __init__(self, asking: Asking, future: asyncio.Future[Place], arrived: float, *, late: bool) -> None:
        self.asking = asking
        self.late = late
        """Known from the beginning to miss its TTFT."""
        self.future = future
        self.arrived = arrived
        self.paused = asking.guest is not None and asking.guest.paused
        """It had a place and gave it away."""
        self.line: WaitingLine[Waiter] | None = None
        self.ticket: Ticket[Waiter] | None = None
        self.seconds = 0.0
        """Prefill work that is counted as queued."""
