"""The router's one waiting line for all prefill engines, and how much waits in it."""

from __future__ import annotations

from paceline.policy.waiting import WaitingLine
from paceline.simulator.request import SimRequest


class Line:
    """Requests that no engine has been given yet, in the production order."""

    __slots__ = ("_line", "seconds", "tokens")

    def __init__(self, age_bound_seconds: float) -> None:
        self._line: WaitingLine[SimRequest] = WaitingLine(age_bound_seconds=age_bound_seconds)
        self.seconds = 0.0
        """Prefill work, as seen when the requests came."""
        self.tokens = 0
        """Prompt tokens to compute, likewise."""

    def __len__(self) -> int:
        return len(self._line)

    def push(self, request: SimRequest) -> None:
        """Let a request wait. Its ``service``, ``left`` and ``deadline`` are set."""
        self._line.push(request, arrived=request.arrived, deadline=request.deadline, service_seconds=request.service)
        self.seconds += request.service
        self.tokens += request.left

    def pop(self, now: float) -> SimRequest | None:
        """Take out the request that is next."""
        request = self._line.pop(now)
        if request is not None:
            self.tokens -= request.left
            # Sums of floats drift; nothing waits is exactly nothing.
            self.seconds = self.seconds - request.service if self._line else 0.0
        return request
