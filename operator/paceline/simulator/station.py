"""An engine as the router sees it: what it was given, and what of that is not done yet."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.policy.routing.backlog import Backlog
from paceline.policy.routing.pacing import owed_until
from paceline.simulator.engine import SimEngine


class Station:
    """One engine's place in the router."""

    __slots__ = ("assigned", "assigned_tokens", "backlog", "engine", "number", "owed_until", "rests_until")

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self.number = engine.number
        self.backlog = Backlog()
        """Prompts that it was given and has not computed."""
        self.rests_until = 0.0
        """While it has streams of its former role: when it may compute a prompt again."""
        self.owed_until = 0.0
        """While it decodes: when its streams have had the steps that they are owed for short prompts."""
        self.assigned = 0
        """Sequences that it decodes or will decode."""
        self.assigned_tokens = 0
        """Their prompts."""

    @property
    def mixed(self) -> bool:
        """Whether it finishes streams of its former role while it computes prompts."""
        return self.assigned > 0 and self.engine.role is Role.PREFILL

    def owe(self, prompt_tokens: int, now: float, *, itl_seconds: float) -> None:
        """Note that the streams of a decode engine wait for a prompt that it computes itself."""
        if self.assigned and self.engine.role is Role.DECODE:
            profile = self.engine.profile
            self.owed_until = owed_until(
                now,
                self.owed_until,
                profile.prefill_work(prompt_tokens, 0),
                step_seconds=profile.step_seconds(self.assigned, self.assigned_tokens),
                itl_seconds=itl_seconds,
            )

    def later_than(self, helper: Station | None, prompt_tokens: int, now: float) -> bool:
        """Whether a prompt would come from ``helper`` while the streams here are still owed steps."""
        if self.owed_until <= now or helper is None:
            return False
        profile = helper.engine.profile
        elsewhere = profile.prefill_seconds(prompt_tokens) + profile.transfer_seconds(prompt_tokens)
        return self.owed_until - now > helper.backlog.left(now) + elsewhere
