"""One request on its way through the simulated cluster."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from paceline.simulator.engine import SimEngine

NO_BLOCKS: Final[tuple[int, ...]] = ()


class Outcome(IntEnum):
    """How a request ended."""

    LOST = 0
    """Neither of the others when the simulation ended: a defect of whoever decides, or of the simulator."""
    COMPLETED = 1
    REJECTED = 2
    """Refused by the router; counts as a miss of the objective."""


class SimRequest:
    """Made on arrival, dropped at the end. Times in seconds of virtual time, sizes in tokens."""

    __slots__ = (
        "arrived", "blocks", "cached", "deadline", "decoder", "done", "finish_step", "first_token", "left",
        "load_seconds", "local", "number", "output", "prefiller", "prompt", "reusable", "service",
    )  # fmt: skip

    def __init__(self, number: int, arrived: float, prompt: int, output: int, blocks: tuple[int, ...]) -> None:
        self.number = number
        """Place in the workload."""
        self.arrived = arrived
        self.prompt = prompt
        self.output = output
        self.blocks = blocks
        """Ids of its full prefix blocks."""
        self.deadline = 0.0
        """By when its prefill must be done so that its first token is in time."""
        self.service = 0.0
        """Prefill time on the engine it was given to, as seen then."""
        self.reusable = 0
        """Blocks that may come from a cache: the last token is always computed."""
        self.local = False
        """Whether the engine that computes the prompt also generates the tokens."""
        self.cached = 0
        """Prompt tokens that the engine that computes the rest held, as far as is known."""
        self.load_seconds = 0.0
        self.done = 0
        """Prompt tokens that are in the engine's KV cache."""
        self.left = 0
        """Prompt tokens that are to be computed yet."""
        self.first_token = -1.0
        self.finish_step = 0
        """Step of its engine that makes its last token."""
        self.prefiller: SimEngine | None = None
        """Engine that holds its KV blocks until they are transferred."""
        self.decoder: SimEngine | None = None
        """Engine that generates its tokens, once that is decided."""
