"""What the worker knows of its engine: a record that the worker writes and the admin server and metrics read."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    """The child is loading the model."""
    WARMING_UP = "warming-up"
    """It answers health checks; the first real request is under way."""
    READY = "ready"
    DRAINING = "draining"
    """It takes no new work and finishes what it has."""
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True)
class EngineStatus:
    """State of the engine. ``start_id`` is new with every start of the worker: a new one means an empty cache."""

    state: State = State.STARTING
    reason: str = "the engine is being started"
    pid: int | None = None
    healthy: bool = True
    """False while a ready engine does not answer its health checks."""
    stalled: bool = False
    """True while a ready engine runs requests and does no step."""
    in_flight: int | None = None
    """Requests running and waiting, as last seen; None when nobody has asked yet."""
    start_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def ready(self) -> bool:
        """Whether new work may come."""
        return self.state is State.READY and self.well

    @property
    def well(self) -> bool:
        """Whether it answers, and gets done what it runs."""
        return self.healthy and not self.stalled

    @property
    def why(self) -> str:
        """The reason for people, of readiness or its lack."""
        if not self.healthy:
            return "the engine does not answer its health checks"
        return "the engine runs requests and does no step" if self.stalled else self.reason

    def move(self, state: State, reason: str) -> None:
        """Enter ``state``; ``reason`` is for people. A draining engine only stops or fails, a failed one has failed."""
        last = (State.DRAINING, State.STOPPED, State.FAILED)
        if self.state is State.FAILED or (self.state in last and state not in last):
            return
        self.state, self.reason = state, reason
