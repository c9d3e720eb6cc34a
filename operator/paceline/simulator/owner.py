"""What an engine needs of whoever drives it: prompts to compute, and someone to hear what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paceline.simulator.request import SimRequest

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
