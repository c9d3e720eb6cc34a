"""The order in which waiting requests are served: one object for the router, the simulator and the planner's replay.

Within a class: requests that can still meet their TTFT, by earliest deadline; then those that can't any more, in the
order of theirs. A late request that has waited longer than the age bound goes before everything else of its class, so
that nothing starves. Classes are served by priority. Serving hopeless requests after those that can still be saved is
worth a large part of a fleet under bursts; without the age bound their own TTFT has no limit.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SLACK: Final = 64
"""Withdrawn tickets kept beyond as many as wait: sweeping them out then costs each push a constant."""


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One waiting request. Times are seconds on the caller's clock."""

    item: T
    arrived: float
    deadline: float
    """By when its first token is due."""
    latest_start: float
    """From when on it can't meet its deadline any more: the deadline less its own service time."""
    priority: int
    waiting: bool = True


class _Class(Generic[T]):
    """Requests of one priority."""

    __slots__ = ("by_deadline", "late")

    def __init__(self) -> None:
        self.by_deadline: list[tuple[float, int, Ticket[T]]] = []
        self.late: deque[Ticket[T]] = deque()


class WaitingLine(Generic[T]):
    """Requests that wait for an engine. Bounded by its caller through ``len``; push and pop are O(log n)."""

    def __init__(self, *, age_bound_seconds: float) -> None:
        self._age_bound = age_bound_seconds
        self._classes: dict[int, _Class[T]] = {}
        self._priorities: list[int] = []
        self._pushed = 0
        self._waiting = 0
        self._withdrawn = 0
        """Tickets withdrawn since the last sweep. Some of them may have been passed over by ``pop`` since."""

    def __len__(self) -> int:
        return self._waiting

    def push(self, item: T, *, arrived: float, deadline: float, service_seconds: float, priority: int = 0) -> Ticket[T]:
        """Add a request that needs ``service_seconds`` of an engine before its first token.

        The ticket that comes back is what :meth:`withdraw` takes.
        """
        ticket = Ticket(item, arrived, deadline, deadline - service_seconds, priority)
        line = self._classes.get(priority)
        if line is None:
            line = self._classes[priority] = _Class()
            self._priorities = sorted(self._classes, reverse=True)
        self._pushed += 1
        heapq.heappush(line.by_deadline, (deadline, self._pushed, ticket))
        self._waiting += 1
        return ticket

    def withdraw(self, ticket: Ticket[T]) -> bool:
        """Take a request out, because its client went away. False when it does not wait any more."""
        if not ticket.waiting:
            return False
        ticket.waiting = False
        self._waiting -= 1
        self._withdrawn += 1
        if self._withdrawn > self._waiting + SLACK:
            self._sweep()
        return True

    def pop(self, now: float) -> T | None:
        """Take out the request that is to be served next; None when nothing waits."""
        for priority in self._priorities:
            ticket = self._next(self._classes[priority], now)
            if ticket is not None:
                ticket.waiting = False
                self._waiting -= 1
                return ticket.item
        return None

    def _sweep(self) -> None:
        """Forget the withdrawn: while nothing is served, nobody else does."""
        self._withdrawn = 0
        for line in self._classes.values():
            line.by_deadline = [entry for entry in line.by_deadline if entry[2].waiting]
            heapq.heapify(line.by_deadline)
            line.late = deque(ticket for ticket in line.late if ticket.waiting)

    def _next(self, line: _Class[T], now: float) -> Ticket[T] | None:
        late = line.late
        while late and not late[0].waiting:
            late.popleft()
        if late and now - late[0].arrived > self._age_bound:
            return late.popleft()
        heap = line.by_deadline
        while heap:
            ticket = heapq.heappop(heap)[2]
            if not ticket.waiting:
                continue
            if now <= ticket.latest_start:
                return ticket
            late.append(ticket)
        while late:
            ticket = late.popleft()
            if ticket.waiting:
                return ticket
        return None
