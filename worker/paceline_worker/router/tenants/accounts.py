"""What one tenant may use, what it uses, and what it used: an account for each, a visit for each of its requests."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

from paceline.clock import Clock
from paceline_worker.router.errors import ApiError
from paceline_worker.router.parse import Rules
from paceline_worker.router.tenants.allowance import Allowance
from paceline_worker.router.tenants.terms import Terms

CHARGED: Final = frozenset({"ok", "broken", "cancelled", "expired"})
"""Outcomes of requests that an engine worked on for their client. What the others had was our fault, or nothing."""
RECENT: Final = 0.9
"""Weight of the past in the mean time of a request."""
MAX_RETRY_SECONDS: Final = 60


class OverLimit(ApiError):
    """A tenant has used what it may. No fault of the deployment: it counts against no objective."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(429, message, retry_after=retry_after)


class Tokens(Protocol):
    """A stream whose tokens are kept."""

    @property
    def tokens(self) -> int:
        """So far."""
        ...


@dataclass(slots=True)
class Usage:
    """What is counted under one label of the metrics."""

    outcomes: Counter[str] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    """Requests that were refused, by the limit: ``requests``, or one of an allowance."""
    cached_tokens: int = 0
    """Of prompts that were given to an engine."""
    uncached_tokens: int = 0
    output_tokens: int = 0
    running: int = 0


class Account:
    """Of one tenant, at one router."""

    def __init__(
        self,
        name: str,
        terms: Terms,
        rules: Rules,
        models: bytes,
        usage: Usage,
        clock: Clock,
        *,
        max_running: int | None,
        allowance: Allowance,
    ) -> None:
        self.name = name
        self.terms = terms
        self.rules = rules
        """What its requests are checked against."""
        self.models = models
        """Its list of models."""
        self.usage = usage
        self.running = 0
        self.max_running = max_running
        self.allowance = allowance
        self._clock = clock
        self._mean_seconds = 1.0

    def now(self) -> float:
        """By the clock."""
        return self._clock.monotonic()

    def begin(self) -> None:
        """Raises OverLimit when it has as many requests as it may."""
        if self.max_running is not None and self.running >= self.max_running:
            self.usage.limited["requests"] += 1
            soon = math.ceil(self._mean_seconds / self.running)
            raise OverLimit(
                f"{self.running} of your requests are running, which is your limit.",
                retry_after=max(1, min(MAX_RETRY_SECONDS, soon)),
            )
        self.running += 1
        self.usage.running += 1

    def take(self, uncached: int, output: int) -> None:
        """Raises OverLimit when a quota does not have them now."""
        now = self.now()
        shortage = self.allowance.shortage(uncached, output, now)
        if shortage is not None:
            self.usage.limited[shortage.limit] += 1
            raise OverLimit(str(shortage), retry_after=shortage.wait_seconds)
        self.allowance.take(uncached, output, now)

    def give_back(self, uncached: int, output: int) -> None:
        """That many were taken and not used; fewer than 0 were used and not taken."""
        self.allowance.take(-uncached, -output, self.now())

    def end(self, seconds: float) -> None:
        """A request that had begun is over."""
        self.running -= 1
        self.usage.running -= 1
        self._mean_seconds = RECENT * self._mean_seconds + (1 - RECENT) * seconds


class Visit:
    """A request of nobody in particular: nothing is counted, and nothing is limited."""

    __slots__ = ()

    def begin(self) -> None:
        """Raises OverLimit when its tenant has as many requests as it may."""

    def expect(self, *, cached: int, uncached: int, output: int) -> None:
        """What it is likely to need, in tokens. Raises OverLimit when its tenant has not got them."""

    def placed(self) -> None:
        """An engine has it."""

    def said(self, tokens: int) -> None:
        """Its answer has so many tokens."""

    def follow(self, stream: Tokens) -> None:
        """Its answer has as many tokens as this stream."""

    def end(self, outcome: str) -> None:
        """It is over."""


NO_VISIT: Final = Visit()


class TenantVisit(Visit):
    """One request of a tenant, from its key to its end."""

    __slots__ = ("_account", "_arrived", "_begun", "_cached", "_output", "_placed", "_stream", "_taken", "_uncached")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._arrived = account.now()
        self._begun = self._placed = False
        self._cached = self._uncached = self._output = 0
        self._taken = (0, 0)
        self._stream: Tokens | None = None

    def begin(self) -> None:
        """See :class:`Visit`."""
        self._account.begin()
        self._begun = True

    def expect(self, *, cached: int, uncached: int, output: int) -> None:
        """See :class:`Visit`."""
        self._account.take(uncached, output)
        self._taken = (uncached, output)
        self._cached, self._uncached = cached, uncached

    def placed(self) -> None:
        """See :class:`Visit`."""
        self._placed = True

    def said(self, tokens: int) -> None:
        """See :class:`Visit`."""
        self._output = tokens

    def follow(self, stream: Tokens) -> None:
        """See :class:`Visit`."""
        self._stream = stream

    def end(self, outcome: str) -> None:
        """See :class:`Visit`. Only what an engine did for the client is charged."""
        account, usage = self._account, self._account.usage
        usage.outcomes[outcome] += 1
        used = (0, 0)
        if self._placed and outcome in CHARGED:
            output = self._output if self._stream is None else max(self._output, self._stream.tokens)
            used = (self._uncached, output)
            usage.cached_tokens += self._cached
            usage.uncached_tokens += self._uncached
            usage.output_tokens += output
        if self._taken != used:
            account.give_back(self._taken[0] - used[0], self._taken[1] - used[1])
        if self._begun:
            account.end(account.now() - self._arrived)
