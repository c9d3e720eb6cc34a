"""The router's one waiting line for all prefill engines, and how much waits in it."""

from __future__ import annotations

from paceline.policy.overload import Refusals, Verdict
from paceline.policy.waiting import WaitingLine
from paceline.simulator.request import SimRequest


class Line:
    """Requests that no engine has been given yet, in the production order."""

    __slots__ = ("_line", "seconds", "tokens")

    def __init__(self, refusals: Refusals, age_bound_seconds: float) -> None:
        self._line: WaitingLine[SimRequest] = WaitingLine(age_bound_seconds=age_bound_seconds, refusals=refusals)
        self.seconds = 0.0
        """Prefill work, as seen when the requests came."""
        self.tokens = 0
        """Prompt tokens to compute, likewise."""

    def __len__(self) -> int:
        return len(self._line)

    def push(self, request: SimRequest, *, late: bool = False) -> None:
        """Let a request wait. Its ``service``, ``left`` and ``deadline`` are set."""
        self._line.push(
            request,
            arrived=request.arrived,
            deadline=request.deadline,
            service_seconds=request.service,
            late=late,
        )
        self.seconds += request.service
        self.tokens += request.left

    def verdict(self, request: SimRequest, now: float) -> Verdict:
        """What would become of a request that joined. Its ``service`` and ``deadline`` are set."""
        return self._line.verdict(now, latest_start=request.deadline - request.service)

    def overdue(self, now: float) -> bool:
        """Whether a late one has waited too long."""
        return self._line.overdue(now)

    def nobody_serves(self, now: float) -> None:
        """There is no engine."""
        self._line.nobody_serves(now)

    def surplus(self, now: float) -> list[SimRequest]:
        """Take out the late ones that are too many."""
        found = self._line.surplus(now)
        for request in found:
            self._took(request)
        return found

    def pop(self, now: float) -> SimRequest | None:
        """Take out the request that is next."""
        request = self._line.pop(now)
        if request is not None:
            self._took(request)
        return request

    def _took(self, request: SimRequest) -> None:
        self.tokens -= request.left
        # Sums of floats drift; nothing waits is exactly nothing.
        self.seconds = self.seconds - request.service if self._line else 0.0
