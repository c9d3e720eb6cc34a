"""An engine as the router sees it: what it was given, and what of that is not done yet."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.simulator.engine import SimEngine


class Station:
    """One engine's place in the router."""

    __slots__ = ("assigned", "assigned_tokens", "backlog", "engine", "number", "prompts", "rests_until")

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self.number = engine.number
        self.prompts = 0
        """That it was given and has not computed."""
        self.backlog = 0.0
        """Seconds of prefill in those. What is computed of the first of them nobody knows."""
        self.rests_until = 0.0
        """While it has streams of its former role: when it may compute a prompt again."""
        self.assigned = 0
        """Sequences that it decodes or will decode."""
        self.assigned_tokens = 0
        """Their prompts."""

    @property
    def mixed(self) -> bool:
        """Whether it finishes streams of its former role while it computes prompts."""
        return self.assigned > 0 and self.engine.role is Role.PREFILL

    def given(self, seconds: float) -> None:
        """One prompt more."""
        self.prompts += 1
        self.backlog += seconds

    def done(self, seconds: float) -> None:
        """One prompt less."""
        self.prompts -= 1
        # Sums of floats drift; nothing to do is exactly nothing.
        self.backlog = self.backlog - seconds if self.prompts else 0.0
