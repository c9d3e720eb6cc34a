"""Watches a ready engine: one that stops answering takes no new work until it answers again. Called by the worker.

A child that ends is noticed by the worker itself, at once; this is for the one that hangs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from paceline_worker.engine.client import EngineClient
from paceline_worker.engine.status import EngineStatus

PERIOD_SECONDS: Final = 1.0
FAILURES: Final = 3
"""In a row: one slow answer of a busy engine is none."""

log = logging.getLogger(__name__)


async def watch_health(client: EngineClient, status: EngineStatus, *, period_seconds: float = PERIOD_SECONDS) -> None:
    """Keep ``status.healthy`` true to what ``/health`` says; runs until cancelled."""
    failures = 0
    while True:
        await asyncio.sleep(period_seconds)
        failures = 0 if await client.healthy() else failures + 1
        healthy = failures < FAILURES
        if healthy is not status.healthy:
            status.healthy = healthy
            log.warning("The engine %s its health checks.", "answers again" if healthy else "no longer answers")
