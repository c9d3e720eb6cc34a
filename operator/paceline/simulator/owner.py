"""What an engine needs of whoever drives it: prompts to compute, and someone to hear what became of them. And what the
router needs: someone to keep the score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paceline.simulator.request import Outcome, SimRequest

if TYPE_CHECKING:
    from paceline.simulator.engine import SimEngine


class EngineOwner(Protocol):
    """What an engine asks of, and tells, the router."""

    def begun(self, engine: SimEngine, request: SimRequest) -> None:
        """The engine begins with a prompt: say what is ``done`` of it, what is ``left``, and how long loading takes."""
        ...

    def computed(self, engine: SimEngine, request: SimRequest) -> None:
        """A prompt is computed. Unless it is ``local``, the engine holds its blocks until :meth:`SimEngine.release`."""
        ...

    def finished(self, engine: SimEngine, request: SimRequest, at: float) -> None:
        """A request has its last token."""
        ...

    def emptied(self, engine: SimEngine) -> None:
        """An engine that is leaving has nothing to do any more, or nobody fetches from it any more."""
        ...


class Observer(Protocol):
    """Who keeps the score."""

    def arrived(self, request: SimRequest, uncached: int) -> None:
        """A request came, ``uncached`` tokens of which the engine it was placed on does not hold."""
        ...

    def begun(self, request: SimRequest, at: float) -> None:
        """A request is about to get its first token: within one decode step."""
        ...

    def ended(self, request: SimRequest, outcome: Outcome, at: float) -> None:
        """A request is completed or refused."""
        ...
