"""The order in which waiting requests are served: one object for the router, the simulator and the planner's replay.

Within a class: requests that can still meet their TTFT, by earliest deadline; then those that can't any more, in the
order of theirs. A late request that has waited longer than the age bound goes before everything else of its class, so
that nothing starves. Classes are served by priority. Serving hopeless requests after those that can still be saved is
worth a large part of a fleet under bursts; without the age bound their own TTFT has no limit.

Where tenants share a class each has a line of its own in this order, and the lines take turns by start-time fair
queueing: a tenant's turn comes after what it was served already, counted in what it costs, not in requests. Turns of
tenants with something to save go before turns of those that have only late requests, for the same reason as above.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from paceline.api.wire import Late
from paceline.policy.overload import Prospect, Refusals, ServedRate, Verdict

T = TypeVar("T")

AGED_SHARE: Final = 0.75
"""Of the longest time that a request may wait: beyond it, whoever is late is served before it is too late for good."""
SLACK: Final = 64
"""Withdrawn tickets kept beyond as many as wait: sweeping them out then costs each push a constant."""


def age_bound_seconds(max_late_seconds: float, max_queue_seconds: float) -> float:
    """The age bound of a line whose requests are refused after ``max_queue_seconds``: a bound after that is none."""
    return min(max_late_seconds, AGED_SHARE * max_queue_seconds)


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One waiting request. Times are seconds on the caller's clock."""

    item: T
    arrived: float
    deadline: float
    """By when its first token is due."""
    latest_start: float
    """From when on it can't meet its deadline any more: the deadline less its own service time."""
    share: _Share[T]
    """The line of its tenant."""
    cost: float
    waiting: bool = True
    late: bool = False
    """Known to be."""
    excused: bool = False
    """It has waited while nobody was there to serve: it is not late because too many came, and is not given up for it.
    """


class _Share(Generic[T]):
    """Requests of one tenant in one class."""

    __slots__ = ("by_deadline", "late", "late_since", "lates", "rate", "turn", "waiting")

    def __init__(self, turn: float, rate: ServedRate) -> None:
        self.by_deadline: list[tuple[float, int, Ticket[T]]] = []
        self.late: deque[Ticket[T]] = deque()
        self.waiting = 0
        self.lates = 0
        """Of them, those that are known to be late, and not excused."""
        self.late_since = 0.0
        """When there were first some after there was none."""
        self.rate = rate
        self.turn = turn
        """When it is served next, in virtual time: what each tenant of the class was served since they wait."""

    def saves(self, now: float, age_bound: float) -> bool:
        """Whether its next request can be in time, or is too old to wait any longer."""
        return self.overdue(now, age_bound) or self.note_late(now)

    def pop(self, now: float, age_bound: float) -> Ticket[T] | None:
        """Take out its next request."""
        late = self.late
        if late and self.overdue(now, age_bound):
            return late.popleft()
        if self.note_late(now):
            return heapq.heappop(self.by_deadline)[2]
        while late:
            ticket = late.popleft()
            if ticket.waiting:
                return ticket
        return None

    def sweep(self) -> None:
        """Forget the withdrawn."""
        self.by_deadline = [entry for entry in self.by_deadline if entry[2].waiting]
        heapq.heapify(self.by_deadline)
        self.late = deque(ticket for ticket in self.late if ticket.waiting)

    def overdue(self, now: float, age_bound: float) -> bool:
        """Whether its first late request has waited too long."""
        late = self.late
        while late and not late[0].waiting:
            late.popleft()
        return bool(late) and now - late[0].arrived > age_bound

    def note_late(self, now: float) -> bool:
        """Whether one can be in time; if so it is the first of the heap. Those before it become late."""
        heap = self.by_deadline
        while heap:
            ticket = heap[0][2]
            if ticket.waiting and now <= ticket.latest_start:
                return True
            heapq.heappop(heap)
            if ticket.waiting:
                self.now_late(ticket, now)
        return False

    def now_late(self, ticket: Ticket[T], now: float) -> None:
        """One of its requests is known to be late."""
        ticket.late = True
        self.late.append(ticket)
        if ticket.excused:
            return
        if not self.lates:
            self.late_since = now
        self.lates += 1

    def take(self, ticket: Ticket[T]) -> None:
        """One of its requests does not wait any more."""
        ticket.waiting = False
        self.waiting -= 1
        self.lates -= ticket.late and not ticket.excused

    def excuse(self) -> None:
        """Nobody is there to serve: who waits has waited for that."""
        for ticket in (*(entry[2] for entry in self.by_deadline), *self.late):
            ticket.excused = True
        self.lates = 0

    def give_up(self, places: float) -> list[Ticket[T]]:
        """Take out late requests beyond ``places``: those that would be served last."""
        found: list[Ticket[T]] = []
        excused: list[Ticket[T]] = []
        while self.lates > places:
            ticket = self.late.pop()
            if ticket.excused:
                excused.append(ticket)
            elif ticket.waiting:
                self.take(ticket)
                found.append(ticket)
        self.late.extend(reversed(excused))
        return found


class _Class(Generic[T]):
    """Requests of one priority."""

    __slots__ = ("_memory", "shares", "time")

    def __init__(self, memory_seconds: float) -> None:
        self.shares: dict[str, _Share[T]] = {}
        """By tenant."""
        self._memory = memory_seconds
        self.time = 0.0
        """Virtual: the turn that was served last."""

    def share(self, tenant: str) -> _Share[T]:
        """The line of a tenant. Who comes anew, or comes back, has no claim from the time in which it did not wait."""
        share = self.shares.get(tenant)
        if share is None:
            share = self.shares[tenant] = _Share(self.time, ServedRate(self._memory))
        elif not share.waiting:
            share.turn = max(share.turn, self.time)
        return share

    def pop(self, now: float, age_bound: float) -> Ticket[T] | None:
        """Take out the next request; its tenant's next turn comes later by what it costs."""
        share = self._next(now, age_bound)
        ticket = None if share is None else share.pop(now, age_bound)
        if share is None or ticket is None:
            return None
        self.time = share.turn
        share.turn += ticket.cost
        share.take(ticket)
        share.rate.served(now)
        if not share.waiting:
            share.rate.waiting(now, some=False)
        return ticket

    def _next(self, now: float, age_bound: float) -> _Share[T] | None:
        shares = self.shares
        if len(shares) == 1:
            (share,) = shares.values()
            return share
        waiting = [share for share in shares.values() if share.waiting]
        saving = [share for share in waiting if share.saves(now, age_bound)]
        return min(saving or waiting, key=_turn, default=None)


def _turn(share: _Share[T]) -> float:
    return share.turn


class WaitingLine(Generic[T]):
    """Requests that wait for an engine. Bounded by its caller through ``len``; push and pop are O(log n), and pop is
    linear in the tenants that wait.
    """

    def __init__(self, *, age_bound_seconds: float, refusals: Refusals | None = None) -> None:
        self._age_bound = age_bound_seconds
        self._refusals = refusals or Refusals(60.0, age_bound_seconds, Late.LIMIT)
        self._classes: dict[int, _Class[T]] = {}
        self._priorities: list[int] = []
        self._pushed = 0
        self._waiting = 0
        self._withdrawn = 0
        """Tickets withdrawn since the last sweep. Some of them may have been passed over by ``pop`` since."""

    def __len__(self) -> int:
        return self._waiting

    def push(
        self,
        item: T,
        *,
        arrived: float,
        deadline: float,
        service_seconds: float,
        priority: int = 0,
        tenant: str = "",
        cost: float = 1.0,
        late: bool = False,
    ) -> Ticket[T]:
        """Add a request that needs ``service_seconds`` of an engine before its first token.

        ``cost``: what it takes of its tenant's share, in any unit that all have in common, over the tenant's weight.
        ``late``: it is known that it will be, so that it must not make others late that could be in time.
        The ticket that comes back is what :meth:`withdraw` takes.
        """
        line = self._classes.get(priority)
        if line is None:
            line = self._classes[priority] = _Class(self._refusals.memory_seconds)
            self._priorities = sorted(self._classes, reverse=True)
        share = line.share(tenant)
        ticket = Ticket(item, arrived, deadline, deadline - service_seconds, share, cost)
        self._pushed += 1
        if late:
            share.now_late(ticket, arrived)
        else:
            heapq.heappush(share.by_deadline, (deadline, self._pushed, ticket))
        if not share.waiting:
            share.rate.waiting(arrived, some=True)
        share.waiting += 1
        self._waiting += 1
        return ticket

    def withdraw(self, ticket: Ticket[T]) -> bool:
        """Take a request out, because its client went away. False when it does not wait any more."""
        if not ticket.waiting:
            return False
        share = ticket.share
        share.take(ticket)
        if not share.waiting:
            share.rate.idle()
        self._waiting -= 1
        self._withdrawn += 1
        if self._withdrawn > self._waiting + SLACK:
            self._sweep()
        return True

    def pop(self, now: float) -> T | None:
        """Take out the request that is to be served next; None when nothing waits."""
        for priority in self._priorities:
            ticket = self._classes[priority].pop(now, self._age_bound)
            if ticket is not None:
                self._waiting -= 1
                return ticket.item
        return None

    def not_served(self, ticket: Ticket[T], now: float) -> None:
        """The request that was popped last got nothing after all: its tenant's turn comes as if it had not been."""
        ticket.share.turn -= ticket.cost
        ticket.share.rate.served(now, -1)

    def nobody_serves(self, now: float) -> None:
        """There is no engine: what was served, and who has been late, says nothing of the time when there is one."""
        for line in self._classes.values():
            for share in line.shares.values():
                share.rate.forget(now)
                share.excuse()

    def overdue(self, now: float) -> bool:
        """Whether somebody of the class that is served next is known to be late, and has waited for longer than the age
        bound.
        """
        for priority in self._priorities:
            shares = self._classes[priority].shares.values()
            if any(share.waiting for share in shares):
                return any(share.overdue(now, self._age_bound) for share in shares)
        return False

    def goes_first(self, priority: int) -> bool:
        """Whether all who wait are of a lower priority."""
        return not self._waiting or not any(
            share.waiting
            for known in self._priorities
            if known >= priority
            for share in self._classes[known].shares.values()
        )

    def verdict(self, now: float, *, latest_start: float, priority: int = 0, tenant: str = "") -> Verdict:
        """What would become of a request that joined now."""
        line = self._classes.get(priority)
        share = None if line is None else line.shares.get(tenant)
        if share is None:
            return Verdict.IN_TIME
        late_for = now - share.late_since if share.lates else 0.0
        prospect = Prospect(share.waiting - share.lates, share.lates, late_for, share.rate.per_second(now))
        return self._refusals.verdict(prospect, slack_seconds=latest_start - now)

    def surplus(self, now: float) -> list[T]:
        """Take out late requests that are one too many: those that would be served last."""
        found: list[T] = []
        for line in self._classes.values():
            for share in line.shares.values():
                share.note_late(now)
                if not share.lates:
                    continue
                places = self._refusals.late_places(share.rate.per_second(now), now - share.late_since)
                given_up = share.give_up(places)
                self._waiting -= len(given_up)
                found += [ticket.item for ticket in given_up]
                if not share.waiting:
                    share.rate.idle()
        return found

    def _sweep(self) -> None:
        """Forget the withdrawn: while nothing is served, nobody else does."""
        self._withdrawn = 0
        for line in self._classes.values():
            for share in line.shares.values():
                share.sweep()
