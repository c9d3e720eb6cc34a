"""An engine as the router sees it: what waits for it, and what it was given."""

from __future__ import annotations

from paceline.policy.waiting import WaitingLine
from paceline.simulator.engine import SimEngine
from paceline.simulator.request import SimRequest


class Station:
    """One engine's place in the router."""

    __slots__ = (
        "assigned", "assigned_tokens", "engine", "late_seconds", "line", "number", "urgent_seconds", "waiting_tokens",
    )  # fmt: skip

    def __init__(self, engine: SimEngine, age_bound_seconds: float) -> None:
        self.engine = engine
        self.number = engine.number
        self.line: WaitingLine[SimRequest] = WaitingLine(age_bound_seconds=age_bound_seconds)
        self.urgent_seconds = 0.0
        """Prefill work that waits and could be in time."""
        self.late_seconds = 0.0
        """Prefill work that waits and can't."""
        self.waiting_tokens = 0
        self.assigned = 0
        """Sequences that it decodes or will decode."""
        self.assigned_tokens = 0
        """Their prompts."""

    def push(self, request: SimRequest) -> None:
        """Let a request wait here."""
        self.line.push(request, arrived=request.arrived, deadline=request.deadline, service_seconds=request.service)
        self.waiting_tokens += request.left
        if request.urgent:
            self.urgent_seconds += request.service
        else:
            self.late_seconds += request.service

    def pop(self, now: float) -> SimRequest | None:
        """Take out the request that is next."""
        request = self.line.pop(now)
        if request is None:
            return None
        self.waiting_tokens -= request.left
        if request.urgent:
            self.urgent_seconds -= request.service
        else:
            self.late_seconds -= request.service
        if not len(self.line):
            # Sums of floats drift; nothing waits is exactly nothing.
            self.urgent_seconds = self.late_seconds = 0.0
        return request
