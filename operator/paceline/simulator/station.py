"""An engine as the router sees it: what it was given, and what of that is not done yet."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.policy.routing.backlog import Backlog
from paceline.simulator.engine import SimEngine


class Station:
    """One engine's place in the router."""

    __slots__ = ("assigned", "assigned_tokens", "backlog", "engine", "number", "rests_until")

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self.number = engine.number
        self.backlog = Backlog()
        """Prompts that it was given and has not computed."""
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
