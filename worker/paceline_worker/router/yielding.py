"""Streams of batch work that run where there is room, and give way at once to requests that are more than that.

The flow and the resumer have every such stream hosted here while an engine says it; the gate asks for room when one of
ordinary priority has to wait. Who is interrupted goes back to the gate and goes on later from the tokens that were
sent. Nothing is done for a token: what the stream has is looked at when somebody needs its place.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from paceline.policy.routing import yielding as policy
from paceline.policy.routing.cost import Settings
from paceline.policy.routing.fleet import EngineView
from paceline.policy.routing.yielding import MAX_INTERRUPTIONS, give_way
from paceline_worker.http.errors import UpstreamError
from paceline_worker.http.message import Response
from paceline_worker.http.upstream import Exchange
from paceline_worker.router.metrics import SECONDS_BUCKETS, Distribution, Sample
from paceline_worker.router.parse import Call
from paceline_worker.router.resume.exactness import greedy, holds_back, obstacle
from paceline_worker.router.resume.transcript import Transcript

RESUMED: Final = "resumed"
FAILED: Final = "failed"
LEFT: Final = "left"


class Interrupted(UpstreamError):
    """The router stopped this stream for another request. Nobody failed."""

    def __init__(self) -> None:
        super().__init__("It was interrupted for a request of higher priority")


class Guest:
    """One stream of batch work, from its arrival to its end."""

    __slots__ = (
        "_greedy", "_prompt_tokens", "_response", "engine", "exchange", "in_time", "interruptions", "paused_at",
        "paused_seconds", "priority", "transcript",
    )  # fmt: skip

    def __init__(self, call: Call, priority: int, prompt_tokens: int, response: Response) -> None:
        self.priority = priority
        self._prompt_tokens = prompt_tokens
        self._response = response
        self._greedy = greedy(call)
        self.transcript: Transcript | None = None
        self.engine = ""
        """Name of its host."""
        self.exchange: Exchange | None = None
        self.in_time = False
        """Whether its first token was."""
        self.interruptions = 0
        self.paused_at: float | None = None
        """When it was interrupted, by the loop; None while it goes on."""
        self.paused_seconds = 0.0
        """Of the pauses since its first token that are over."""

    @property
    def paused(self) -> bool:
        """Whether it was interrupted and nothing has come since."""
        return self.paused_at is not None

    @property
    def computed_tokens(self) -> int:
        """Of prompt and answer."""
        return self._prompt_tokens + (0 if self.transcript is None else self.transcript.tokens)

    def can_go_on(self) -> bool:
        """Whether it could go on exactly, for sure, if it were interrupted now."""
        said = self.transcript
        if said is None or said.finished or said.done or said.fault is not None:
            return False
        if not self._response.started:
            return True  # it is placed again
        if not said.first or said.prompt_ids is None or said.opaque is not None:
            return False
        # Where text and tokens don't end together some tokens are said again: only greedy ones come out the same.
        return said.settled or said.tokens == 0 or self._greedy


class Guests:
    """All of a router. ``on_hosted`` is called when one more could give way; ``now``: the clock of the loop."""

    def __init__(self, on_hosted: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._on_hosted = on_hosted
        self._loop = loop
        self._hosted: dict[Guest, None] = {}
        """In the order in which they came."""
        self._ending: set[Guest] = set()
        """Interrupted, and the engine is still theirs."""
        self._outcomes = dict.fromkeys((RESUMED, FAILED, LEFT), 0)
        self.paused = 0
        """Streams that are interrupted now."""
        self.pauses = Distribution(SECONDS_BUCKETS)

    def invite(self, call: Call, priority: int, prompt_tokens: int, response: Response) -> Guest | None:
        """A request whose stream may be interrupted; None for all others: what is no batch work, and what could not be
        continued so that nobody can tell. With stop strings that depends on how an engine cuts text into tokens.
        """
        if priority >= 0 or not call.stream or holds_back(call) or obstacle(call) is not None:
            return None
        return Guest(call, priority, prompt_tokens, response)

    @contextmanager
    def hosted(self, guest: Guest | None, engine: str, exchange: Exchange) -> Iterator[None]:
        """An engine says the stream meanwhile. Within, :class:`Interrupted` may come out of the exchange."""
        if guest is None or guest.interruptions >= MAX_INTERRUPTIONS:
            yield
            return
        guest.engine, guest.exchange = engine, exchange
        self._hosted[guest] = None
        # Not now: what has arrived already is passed on first.
        self._loop.call_soon(self._on_hosted)
        try:
            yield
        finally:
            self._hosted.pop(guest, None)
            self._ending.discard(guest)
            guest.exchange = None

    def make_room(self, wanted: Callable[[], int], engines: Sequence[EngineView], settings: Settings) -> None:
        """Interrupt as many streams as it takes for ``wanted()`` requests to find room, if there are such streams."""
        able = [guest for guest in self._hosted if guest.can_go_on()]
        if not able:
            return
        known = [
            policy.Guest(engine=guest.engine, priority=guest.priority, computed_tokens=guest.computed_tokens)
            for guest in able
        ]
        ending = Counter(guest.engine for guest in self._ending)
        for place in give_way(known, engines, settings, wanted=wanted(), ending=ending):
            guest = able[place]
            del self._hosted[guest]
            self._ending.add(guest)
            if guest.exchange is not None:
                guest.exchange.reject(Interrupted())

    def pause(self, guest: Guest) -> None:
        """It was interrupted."""
        guest.interruptions += 1
        guest.paused_at = self._loop.time()
        self.paused += 1

    def begun(self, guest: Guest, *, in_time: bool) -> None:
        """Its first token is there. What it paused before belongs to the wait for that."""
        self.resumed(guest)
        guest.in_time, guest.paused_seconds = in_time, 0.0

    def resumed(self, guest: Guest) -> None:
        """Something of it has come, after a pause or not."""
        if guest.paused_at is not None:
            pause = self._end(guest, guest.paused_at, RESUMED)
            guest.paused_seconds += pause
            self.pauses.observe(pause)

    def over(self, guest: Guest | None, outcome: str = LEFT) -> None:
        """The request is over, or can't go on. If it was paused, that is how the pause ended."""
        if guest is not None and guest.paused_at is not None:
            self._end(guest, guest.paused_at, outcome)

    def _end(self, guest: Guest, since: float, outcome: str) -> float:
        guest.paused_at = None
        self.paused -= 1
        self._outcomes[outcome] += 1
        return self._loop.time() - since

    def totals(self) -> Iterator[Sample]:
        """For the metrics page."""
        text = "Streams that gave way, by how their pause ended."
        for outcome, count in self._outcomes.items():
            yield "yields", text, {"outcome": outcome}, count
