"""The prompts in one engine, and how much of them goes into a step: chunked prefill under a token budget."""

from __future__ import annotations

from collections import deque

from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.request import SimRequest

Chunks = tuple[float, int, int, list[SimRequest]]
"""What one step computes of prompts: seconds, by :meth:`EngineProfile.prefill_work`; prompts of which a single token
was left, which are computed like sequences that decode; tokens that those attend to; prompts that are complete then.
"""


class PromptQueue:
    """Prompts in order of arrival; the first is computed first."""

    __slots__ = ("_attention", "_prompts", "_token", "tokens")

    def __init__(self, profile: EngineProfile) -> None:
        self._token = profile.prefill_token
        self._attention = profile.prefill_attention
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
        prompts = self._prompts
        work, singles, context = 0.0, 0, 0
        completed = []
        begun = budget
        while prompts and budget > 0:
            request = prompts[0]
            left, done = request.left, request.done
            chunk = min(left, budget)
            if left == 1 and done > request.cached:
                singles += 1
                context += done + 1
            else:
                # EngineProfile.prefill_work, spelt out.
                work += chunk * (self._token + self._attention * (done + chunk / 2))
            request.done = done + chunk
            request.left = left - chunk
            budget -= chunk
            if chunk == left:
                completed.append(prompts.popleft())
        self.tokens -= begun - budget
        return work, singles, context, completed
