"""How many streams a decode engine may have before one more makes all of them miss their time between tokens.

Decode is a cliff: each stream of a batch waits for the same steps, so an engine that has a few streams too many fails
every one of them. A request that waits for a place among the streams fails at most by itself, in an order that puts
those which are late anyhow behind those that can still be in time (:mod:`paceline.policy.waiting`). So an engine gets
one more stream only while a step with it, through the engine model, stays within the objective.

Two bounds keep that from costing more than it saves. An engine that has none gets a stream in any case. And none is
kept below half of the throughput that it could reach at all: B streams make B / (base + w·B) tokens a second, which is
half of 1 / w where w·B is as long as the base, so up to twice the base a step may always take. An objective below that
is a matter of the number of engines.

Used by placement, with what the router learns of its engines' true speed, and by the simulator.
"""

from __future__ import annotations

from typing import Final

import msgspec

from paceline.policy.routing.fleet import EngineModel

SPAN: Final = 1_000_000
"""Between two points of a linear model: wide, so that nothing is lost in rounding."""
HALF: Final = 2.0
"""Times the base: as long as a step may always take."""
LEAST_SPEED: Final = 0.2
"""Of a step's time by the model: nothing is believed that says less."""
MOST_SEEN: Final = 2.0
"""The same for one stream: a client that reads slowly says no more than that."""
MEMORY: Final = 0.98
"""Weight of the streams before in what is believed of an engine's speed."""


class Crowding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What makes a step longer, and how much longer it may become."""

    room_seconds: float
    """Beyond the time of a step without streams."""
    stream_seconds: float
    token_seconds: float
    """Of context."""

    def allows(self, streams: float, context_tokens: float) -> bool:
        """Whether an engine may have so many streams with so much context, all of them together."""
        return streams * self.stream_seconds + context_tokens * self.token_seconds <= self.room_seconds


def crowding(model: EngineModel, itl_seconds: float, *, share: float = 1.0) -> Crowding:
    """The limit for engines whose steps take ``share`` of the time that ``model`` says."""
    one = model.step_seconds(1, 0)
    stream = (model.step_seconds(1 + SPAN, 0) - one) / SPAN
    token = (model.step_seconds(1, SPAN) - one) / SPAN
    base = one - stream
    return Crowding(
        room_seconds=max(itl_seconds / share, HALF * base) - base, stream_seconds=stream, token_seconds=token
    )


class StepShare:
    """Which part of the model's time for a step the engines really take, by the streams that ended."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean = 1.0

    @property
    def value(self) -> float:
        """At most 1: a stream whose client reads slowly looks like one of a slow engine, and must not hold others up.

        The mean may be above it: steps vary, and the mean of what is cut off at 1 would be below 1 where the model is
        right.
        """
        return min(1.0, self._mean)

    def ended(self, itl_seconds: float, expected_seconds: float) -> None:
        """A stream had ``itl_seconds`` between its tokens, where the model expects steps of ``expected_seconds``."""
        if expected_seconds > 0:
            seen = min(MOST_SEEN, max(LEAST_SPEED, itl_seconds / expected_seconds))
            self._mean = MEMORY * self._mean + (1 - MEMORY) * seen
