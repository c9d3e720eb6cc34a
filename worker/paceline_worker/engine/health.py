"""Watches a ready engine: one that stops answering takes no new work until it answers again, and is given up in the
end. Called by the worker.

A process that ends is noticed by the worker itself, at once; this is for an engine that hangs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from paceline.errors import EngineError
from paceline_worker.engine.client import EngineClient, Health
from paceline_worker.engine.status import EngineStatus

PERIOD_SECONDS: Final = 1.0
SILENT_CHECKS: Final = 3
"""In a row, after which an engine is out of service: one late answer of a busy one says nothing."""
LOST_CHECKS: Final = 20
"""In a row, after which it is given up: 20 s of bad answers, 2 minutes of silence."""

log = logging.getLogger(__name__)


async def watch_health(client: EngineClient, status: EngineStatus, *, period_seconds: float = PERIOD_SECONDS) -> None:
    """Keep ``status.healthy`` true to what ``/health`` says. Raises EngineError when there is no hope any more."""
    failures = 0
    while True:
        await asyncio.sleep(period_seconds)
        health = await client.health()
        failures = 0 if health is Health.GOOD else failures + 1
        if failures == LOST_CHECKS:
            raise EngineError(f"The engine failed {LOST_CHECKS} health checks in a row; it is given up.")
        if health is Health.GOOD and not status.healthy:
            status.healthy = True
            log.warning("The engine passes its health checks again.")
        elif status.healthy and (health is Health.BAD or failures >= SILENT_CHECKS):
            status.healthy = False
            log.warning("The engine fails its health checks.")
