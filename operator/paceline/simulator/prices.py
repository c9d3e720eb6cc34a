"""What a prompt would cost on an engine, and which engine was last seen to hold how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paceline.policy.routing.cost import WASTE_WEIGHT
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.simulator.cache import leading
from paceline.simulator.heaps import LazyHeap
from paceline.simulator.request import SimRequest
from paceline.simulator.station import Station


class Quote(NamedTuple):
    """What a prompt would cost on an engine."""

    station: Station
    seconds: float
    """Until it is computed."""
    service: float
    """Of the engine's time."""


class Prices:
    """Costs as in :mod:`paceline.policy.routing.placement`, of the two engines that matter."""

    def __init__(self, profile: EngineProfile, block_size: int) -> None:
        self._base = profile.prefill_base
        self._token = profile.prefill_token
        self._attention = profile.prefill_attention
        self._block_size = block_size
        self._holders: dict[int, Station] = {}
        """Block to the engine that last held it in use."""

    def cheaper(self, request: SimRequest, station: Station, usable: LazyHeap[Station], now: float) -> Quote:
        """The quote of ``station`` or, where it is cheaper, that of the usable engine which holds most of the prompt.

        Whoever does not hold what the other does pays for what is computed twice. Sets what the chosen one holds.
        """
        best = self._quote(request, station, now)
        holder = self._holder(request) if request.blocks else None
        if holder is not None and holder is not station and holder in usable:
            left, cached = request.left, request.cached
            other = self._quote(request, holder, now)
            if other.seconds <= best.seconds + WASTE_WEIGHT * max(0.0, best.service - other.service):
                return other
            request.left, request.cached = left, cached
        return best

    def computed(self, station: Station, blocks: Sequence[int]) -> None:
        """An engine has computed a prompt of these blocks: it holds them now."""
        self._holders.update(dict.fromkeys(blocks, station))
        cache, engine = station.engine.cache, station.engine
        gone = cache.touch(blocks)
        room = engine.cache_room()
        if room < engine.capacity:
            gone += cache.shrink(room // self._block_size)
        self._forget(station, gone)

    def gone(self, station: Station) -> None:
        """An engine is gone, and its cache with it."""
        self._forget(station, station.engine.cache.clear())

    def _quote(self, request: SimRequest, station: Station, now: float) -> Quote:
        blocks, load_seconds = station.engine.cache.match(request.blocks, request.reusable)
        cached = request.cached = blocks * self._block_size
        new = request.left = request.prompt - cached
        # EngineProfile.prefill_seconds, spelt out.
        service = self._base + new * (self._token + self._attention * (cached + new / 2)) + load_seconds
        return Quote(station, station.backlog.left(now) + service, service)

    def _holder(self, request: SimRequest) -> Station | None:
        blocks = request.blocks
        known = leading(self._holders, blocks, 0, request.reusable)
        return self._holders[blocks[known - 1]] if known else None

    def _forget(self, station: Station, parts: Sequence[Sequence[int]]) -> None:
        holders = self._holders
        for part in parts:
            for block in part:
                if holders.get(block) is station:
                    del holders[block]
