"""Which streams of batch work give way when a request that is more than that finds no room. The router's gate asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Final

import msgspec

from paceline.api.wire import Role
from paceline.policy.routing.cost import Settings
from paceline.policy.routing.fleet import EngineView

MAX_INTERRUPTIONS: Final = 3
"""Of one stream: after that it runs to its end, however many wait."""


class Guest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One stream that can be interrupted now."""

    engine: str
    priority: int
    computed_tokens: int
    """Of its prompt and its answer: what may have to be computed again."""


def give_way(
    guests: Sequence[Guest],
    engines: Sequence[EngineView],
    settings: Settings,
    *,
    wanted: int,
    ending: Mapping[str, int],
) -> list[int]:
    """Indices of the streams to interrupt so that ``wanted`` more requests find room: no more of them than that.

    ``ending``: streams by engine that were interrupted already and whose room is not free yet; they count as room that
    comes. The lowest priority gives way first, then who has least to compute again. An engine that has more requests
    than it may have, as other routers send some too, is passed over: the end of one stream makes no room there.
    """
    room = {
        engine.name: _places(engine, settings) + ending.get(engine.name, 0)
        for engine in engines
        if engine.usable and not (settings.disaggregated and engine.role is Role.PREFILL)
    }
    missing = wanted - sum(max(0, free) for free in room.values())
    able = [place for place, guest in enumerate(guests) if room.get(guest.engine, -1) >= 0]
    return nsmallest(missing, able, key=lambda place: (guests[place].priority, guests[place].computed_tokens, place))


def _places(engine: EngineView, settings: Settings) -> int:
    """Requests that an engine can take besides what it has; none where its streams are as many as its steps allow."""
    places = settings.max_running_per_engine - engine.running
    limit = settings.crowding
    if limit is None or engine.role is not Role.DECODE or limit.allows(engine.running + 1, engine.context_tokens):
        return places
    return min(places, 0)
