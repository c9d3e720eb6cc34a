"""Waits until an engine that takes no new work has finished what it has. Called by the worker on SIGTERM.

Finished means: nothing runs or waits, and no KV block is held, since a prefill engine keeps a finished prompt's blocks
until the decode engine has fetched them. It must hold for a moment, because a router may send one more request before
it has seen the change.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from paceline.clock import Clock
from paceline_worker.engine.client import EngineClient, Load
from paceline_worker.engine.status import EngineStatus

POLL_SECONDS: Final = 0.2
QUIET_SECONDS: Final = 1.0
"""How long an engine must have been idle: routers learn of a drain within fractions of it."""
HELD_BLOCKS_SECONDS: Final = 35.0
"""Longest wait for blocks that nobody fetches: vLLM gives them up after a lease of 30 s."""

log = logging.getLogger(__name__)


async def wait_idle(client: EngineClient, status: EngineStatus, clock: Clock, *, limit_seconds: float) -> bool:
    """Wait until the engine is idle, at most ``limit_seconds``; whether it is."""
    start = clock.monotonic()
    idle_since: float | None = None
    held_since: float | None = None
    while (now := clock.monotonic()) - start < limit_seconds:
        load = await client.load()
        if load is not None:
            status.in_flight = load.in_flight
            held_since = _since(held_since, now, holds=load.in_flight == 0 and load.cache_use > 0)
            given_up = held_since is not None and now - held_since >= HELD_BLOCKS_SECONDS
            idle_since = _since(idle_since, now, holds=_idle(load) or given_up)
            if idle_since is not None and now - idle_since >= min(QUIET_SECONDS, limit_seconds / 2):
                return True
        await asyncio.sleep(POLL_SECONDS)
    log.warning("Still %s requests in flight after %.0f s; they are cut off.", status.in_flight, limit_seconds)
    return False


def _idle(load: Load) -> bool:
    return load.in_flight == 0 and load.cache_use == 0


def _since(start: float | None, now: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now if start is None else start
