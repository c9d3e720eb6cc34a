"""From a started child to one that has really answered: health checks, then a completion. Called by the worker.

Readiness waits for a real request because an engine that answers ``/health`` may still compile for its first one, or
fail it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from paceline.clock import Clock
from paceline.errors import EngineError
from paceline_worker.engine.client import EngineClient, Health
from paceline_worker.engine.status import EngineStatus, State

POLL_SECONDS: Final = 0.1
"""First pause between health checks; doubles up to the longest."""
LONGEST_POLL_SECONDS: Final = 1.0
WARMUP_ATTEMPTS: Final = 3
"""The first request may meet an engine that is still settling; the third failure is a verdict."""

log = logging.getLogger(__name__)


async def become_ready(
    client: EngineClient,
    status: EngineStatus,
    clock: Clock,
    *,
    deadline_seconds: float,
    warmed: Callable[[float], None],
) -> None:
    """Wait until the engine completes a request; ``warmed`` is told how long that took once the engine was healthy.

    Raises EngineError when it has not after ``deadline_seconds``.
    """
    deadline = clock.monotonic() + deadline_seconds
    try:
        async with asyncio.timeout(deadline_seconds):
            await _wait_healthy(client)
            status.move(State.WARMING_UP, "the warm-up request is under way")
            begun = clock.monotonic()
            await _warm_up(client, clock, deadline)
            warmed(clock.monotonic() - begun)
    except TimeoutError:
        raise EngineError(
            f"The engine is not ready after {deadline_seconds:.0f} s (startDeadlineSeconds): still {status.state}."
        ) from None


async def _wait_healthy(client: EngineClient) -> None:
    pause = POLL_SECONDS
    while await client.health() is not Health.GOOD:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_POLL_SECONDS)


async def _warm_up(client: EngineClient, clock: Clock, deadline: float) -> None:
    for attempt in range(1, WARMUP_ATTEMPTS + 1):
        try:
            await client.warm_up(deadline - clock.monotonic())
        except EngineError as error:
            if attempt == WARMUP_ATTEMPTS:
                raise
            log.warning("Attempt %d of %d: %s", attempt, WARMUP_ATTEMPTS, error)
            await asyncio.sleep(LONGEST_POLL_SECONDS)
        else:
            return
