"""The prompts in one engine, and how much of them goes into a step: chunked prefill under a token budget."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.request import SimRequest


class Chunks(NamedTuple):
    """What one step computes of prompts."""

    work: float
    """Seconds, by :meth:`EngineProfile.prefill_work`."""
    singles: int
    """Prompts of which a single token was left: they are computed like sequences that decode."""
    context: int
    """Tokens that those attend to."""
    completed: list[SimRequest]
    """Prompts that are complete after it."""


class PromptQueue:
    """Prompts in order of arrival; the first is computed first."""

    __slots__ = ("_profile", "_prompts", "tokens")

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._prompts: deque[SimRequest] = deque()
        self.tokens = 0
        """Left to compute, of all of them."""

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, request: SimRequest) -> None:
        """Behind the others."""
        self._prompts.append(request)
        self.tokens += request.left

    def take(self, budget: int) -> Chunks:
        """The chunks of the next step, at most ``budget`` tokens together."""
        prompts, profile = self._prompts, self._profile
        work, singles, context = 0.0, 0, 0
        completed = []
        while prompts and budget > 0:
            request = prompts[0]
            chunk = min(request.left, budget)
            if request.left == 1 and request.done > request.cached:
                singles += 1
                context += request.done + 1
            else:
                work += profile.prefill_work(chunk, request.done)
            request.done += chunk
            request.left -= chunk
            budget -= chunk
            self.tokens -= chunk
            if not request.left:
                completed.append(prompts.popleft())
        return Chunks(work, singles, context, completed)
