"""Places among the streams of decode engines, for requests that have no decode engine yet.

In the production router a request is given both its engines at once. Here its decode engine is chosen when its prompt
is computed, so those whose prompt is on the way are counted as shared evenly by the decode engines.
"""

from __future__ import annotations

from typing import Final

from paceline.api.wire import Role
from paceline.policy.routing.crowding import Crowding
from paceline.simulator.heaps import LazyHeap
from paceline.simulator.request import SimRequest
from paceline.simulator.station import Station

EXPECTED_OUTPUT_TOKENS: Final = 256
"""Of a stream of which nothing is known, as in placement."""


class Streams:
    """What there is on ``decode``, by the load of its least loaded engine, and what is promised."""

    __slots__ = ("_decode", "_limit", "_tokens", "promised")

    def __init__(self, decode: LazyHeap[Station], limit: Crowding | None) -> None:
        self._decode = decode
        self._limit = limit
        self.promised = 0
        """Requests whose prompt is being computed for a decode engine."""
        self._tokens = 0
        """Of their prompts."""

    def promise(self, request: SimRequest) -> None:
        """Its prompt is going to be computed."""
        self.promised += 1
        self._tokens += request.prompt

    def keep(self, request: SimRequest) -> None:
        """It has a decode engine."""
        self.promised -= 1
        self._tokens -= request.prompt

    def too_many(self, prompt_tokens: int = 0) -> bool:
        """Whether one more, with such a prompt, would make the streams of every decode engine miss their objective."""
        station, limit = self._decode.least(), self._limit
        if limit is None or station is None or station.engine.role is Role.BOTH or not station.assigned:
            return False
        share = 1 / len(self._decode)
        streams = station.assigned + share * self.promised + 1
        context = station.assigned_tokens + share * self._tokens + prompt_tokens
        return not limit.allows(streams, context + streams * EXPECTED_OUTPUT_TOKENS / 2)
